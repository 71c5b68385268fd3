"""A run to look at: what is in its clusters and what may be wrong with them, computed here and written as one page."""
