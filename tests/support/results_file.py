"""What a run has written to its results."""

import json
from pathlib import Path


def rows_in(folder: Path) -> list[dict]:
    """The rows of ``results.json`` as they are on disk."""
    return json.loads((folder / "results.json").read_text())
