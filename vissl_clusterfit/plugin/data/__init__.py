"""Data sources, splits and labels as VISSL and the stages read them."""
