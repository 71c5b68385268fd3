"""What is in a folder, and removing one, wherever it lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vissl_clusterfit.storage.remote import as_remote


def names_in(folder: Path) -> set[str]:
    """The names of all that is in a folder; none if there is no such folder."""
    if remote := as_remote(folder):
        folders, files = remote.children()
        return {*folders, *files}
    return set(os.listdir(folder)) if folder.is_dir() else set()


def remove_folder(folder: Path) -> None:
    """Removes a folder and all that is in it; on this machine, what cannot be removed stays."""
    if remote := as_remote(folder):
        remote.remove_folder()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def walk(folder: Path, refused: Callable[[OSError], object]) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all below it, each once, whatever links there are; with each, the names of the files in it.

    Args:
        folder: where to begin.
        refused: gets the error where a folder of this machine cannot be read.
    """
    if remote := as_remote(folder):
        folders, files = remote.children()
        yield folder, files
        for name in folders:
            yield from walk(folder / name, refused)
        return
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=refused, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        yield Path(place), files
