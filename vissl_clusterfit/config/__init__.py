"""What a run may say: blocks of the config as frozen dataclasses, checked as they are read. Knows no VISSL."""
