"""Data sets as their publishers ship them, made ready for a run."""
