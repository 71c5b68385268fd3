"""What came out of a run: ``results.json`` and its table."""
