"""Which videos there are, and their labels: folders of files, and lists."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.storage.untrusted import array_in

EXTENSIONS = (
    *(".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


@dataclass(frozen=True)
class VideoFiles:
    """Videos in their fixed order.

    Attributes:
        paths: (N,) of text, as bytes in UTF-8 or as str.
        labels: int64 (N,), or (N, M) with several labels per video and -1 where there are fewer; None without.
    """

    paths: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """The path of one video."""
        path = self.paths[index]
        return os.fsdecode(path) if isinstance(path, bytes) else str(path)


def videos_in(folder: str) -> VideoFiles:
    """Video files in class folders, labelled by the order of these; or right in the folder, then all of label 0.

    Files are known by their endings (``EXTENSIONS``), and sorted by name; class folders may hold folders.

    Raises:
        DataError: there are none, or a class folder holds none.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes or [""]):
        inside = os.path.join(folder, name) if name else folder
        found = sorted(
            os.path.join(parent, file)
            for parent, _, files in os.walk(inside, followlinks=True)
            for file in files
            if file.lower().endswith(EXTENSIONS)
        )
        if not found:
            allowed = f"at least one video ({', '.join(EXTENSIONS)})"
            raise DataError(problem("config.DATA: DATA_PATHS", found=f"no video in {inside}", allowed=allowed))
        paths += map(os.fsencode, found)
        labels += [label] * len(found)
    return VideoFiles(np.array(paths), np.array(labels, dtype=np.int64))


def read_list(path: str, open_file: Callable[[str], BinaryIO]) -> VideoFiles:
    """A list of videos: an ``.npy`` array of paths, or a text with one video per line.

    A line of the text is a path, or a path, a tab or a space, and a label or several with commas between them::

        clips/a b.mp4
        clips/c.mp4 12
        clips/d.mp4 12,40,7

    A relative path is relative to the folder of the list.

    Args:
        path: of the list.
        open_file: opens it, on whatever file system.

    Raises:
        DataError: it is no such list.
    """
    with open_file(path) as file:
        if path.endswith(".npy"):
            try:
                paths = array_in(io.BytesIO(file.read()))
            except ValueError as error:
                raise DataError(f"{path} is no array of paths: found {error}.") from None
            if paths.ndim != 1 or paths.dtype.kind not in "US":
                found = f"an array of {paths.dtype} of shape {paths.shape}"
                raise DataError(problem(path, found=found, allowed="an array of paths, of text and shape (N,)"))
            return VideoFiles(paths, None)
        lines = [line.rstrip(b"\r\n") for line in file]
    rows = [_path_and_labels(line) for line in lines if line.strip()]
    labelled = [row for row in rows if row[1] is not None]
    if labelled and len(labelled) < len(rows):
        without = os.fsdecode(next(name for name, found in rows if found is None))
        found = f"labels for {len(labelled)} of {len(rows)} lines; {without!r} has none"
        raise DataError(problem(path, found=found, allowed="labels for all or for none"))
    return VideoFiles(np.array([name for name, _ in rows]), _as_array([found for _, found in labelled if found]))


def _path_and_labels(line: bytes) -> tuple[bytes, list[int] | None]:
    name, _, last = line.strip().replace(b"\t", b" ").rpartition(b" ")
    try:
        return name.strip(), [int(np.int64(int(label))) for label in last.split(b",")]
    except (ValueError, OverflowError):  # no whole numbers of 64 bits
        return line.strip(), None


def _as_array(labels: list[list[int]]) -> np.ndarray | None:
    if not labels:
        return None
    most = max(map(len, labels))
    padded = np.full((len(labels), most), -1, dtype=np.int64)
    for row, of_one in zip(padded, labels, strict=True):
        row[: len(of_one)] = of_one
    return padded[:, 0] if most == 1 else padded
