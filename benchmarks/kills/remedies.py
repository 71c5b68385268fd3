"""What a user does whom the command refuses a damaged file: what the message says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path


def to_delete(message: str, folder: Path, cut: Sequence[Path]) -> list[Path]:
    """What a message has deleted.

    Args:
        message: the last that the command said.
        folder: of the run; nothing outside is touched.
        cut: files that are damaged.
    """
    named = re.search(r"[Dd]elete (/\S+)", message)
    if named and (place := Path(named[1].rstrip(",."))).is_relative_to(folder):
        return [place]
    # "It", "the folder": an artefact as a whole, else the file.
    named_ones = [path for path in cut if str(path) in message]
    meant = named_ones or [path for path in cut if str(path.parent) in message] or cut
    return [path.parent if (path.parent / "manifest.json").exists() else path for path in meant]


def delete(place: Path) -> None:
    """Removes a file or a folder."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
