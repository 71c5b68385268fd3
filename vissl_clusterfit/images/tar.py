"""Images in tar files, as WebDataset writes them: read by position, in any order, from any number of processes."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np
from PIL import Image

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.images.base import EXTENSIONS, Images, some
from vissl_clusterfit.images.names import PackedNames
from vissl_clusterfit.images.tar_index import index_of

_NUM_THREADS = 8
_MOST_OPEN = 32
_MOST_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class TarImages(Images):
    """The images of one tar file or of several, in the order of the files and in theirs.

    A sample's name is its shard's, below the folder that all are in, a slash, and its own in there. The index of a
    shard is kept beside it, as a hidden file.

    Raises:
        DataError: a file is no tar, or damaged, or has two files of one name; or there is no image in any.
    """

    kind = "tar files of images"

    def __init__(self, place: str, shards: Sequence[str], *, exif: bool = True) -> None:
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            indices = list(threads.map(index_of, shards))
        counts = [len(index.names) for index in indices]
        if not sum(counts):
            allowed = f"files in it that end in {', '.join(EXTENSIONS)}"
            raise DataError(problem("The images", found=f"{place} without any image", allowed=allowed))
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(shard)) for shard in shards])
        names = (
            f"{os.path.relpath(shard, folder)}/{name}"
            for shard, index in zip(shards, indices, strict=True)
            for name in index.names
        )
        super().__init__(place, PackedNames(names), exif=exif)
        self._shards = [os.path.abspath(shard) for shard in shards]
        self._states = [(index.size, index.time) for index in indices]
        self._shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        self._offsets = np.array([offset for index in indices for offset in index.offsets], dtype=np.int64)
        self._sizes = np.array([size for index in indices for size in index.sizes], dtype=np.int64)
        if all(index.labels is not None for index in indices if index.names):
            self.labels = np.array([label for index in indices for label in index.labels or ()], dtype=np.int64)
        self._files: dict[int, IO[bytes]] = {}
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}, "_owner": 0}

    def _open(self, index: int) -> Image.Image:
        size = int(self._sizes[index])
        if size < 0:
            raise FileNotFoundError("a link that leads to no file of this tar, or a sparse file")
        file = self._file(int(self._shard_of[index]))
        return Image.open(io.BytesIO(os.pread(file.fileno(), size, int(self._offsets[index]))))

    def _file(self, shard: int) -> IO[bytes]:
        """A shard, opened by this process."""
        if self._owner != os.getpid():
            self._files, self._owner = {}, os.getpid()
        if shard not in self._files:
            if len(self._files) >= _MOST_OPEN:
                self._files.pop(next(iter(self._files))).close()
            file = open(self._shards[shard], "rb", buffering=0)  # noqa: SIM115  (kept for the samples that follow)
            state = os.fstat(file.fileno())
            if (state.st_size, state.st_mtime_ns) != self._states[shard]:
                file.close()
                raise OSError(f"{self._shards[shard]} was changed while it is read")
            self._files[shard] = file
        return self._files[shard]

    def _marks(self) -> Iterator[str]:
        return map(str, self._sizes)


def tars_in(folder: str) -> list[str]:
    """The tar files right in a folder, by name."""
    return sorted(
        entry.path for entry in os.scandir(folder) if entry.name.endswith(".tar") and not entry.name.startswith(".")
    )


def is_pattern(place: str) -> bool:
    """Whether a text can name several files."""
    return any(sign in place for sign in "{*?[")


def matching(pattern: str) -> list[str]:
    """The files that a pattern names: ``{000..015}`` and ``{a,b}`` as in a shell, then ``*``, ``?`` and ``[…]``.

    Raises:
        DataError: some of what braces name is not there, or nothing matches.
    """
    found: dict[str, None] = {}
    missing = []
    for name in _expanded(pattern):
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name))
        missing += [] if matches else [name]
        found |= dict.fromkeys(matches)
    if missing:
        what = f"{len(missing)} of {len(missing) + len(found)} files missing: {some(missing)}" if found else "no file"
        raise DataError(problem(pattern, found=what, allowed="a pattern of files that are there"))
    return list(found)


def _expanded(pattern: str) -> list[str]:
    names, todo = [], [pattern]
    while todo:
        text = todo.pop()
        braces = _BRACES.search(text)
        if braces is None:
            names.append(text)
            continue
        numbers = _RANGE.fullmatch(braces[1])
        choices: Sequence[str] = braces[1].split(",")
        if numbers:
            first, last = map(int, numbers.groups())
            if not 0 <= last - first < _MOST_SHARDS:
                raise DataError(problem(pattern, found=braces[0], allowed="from a number to a higher one"))
            choices = [str(number).zfill(len(numbers[1])) for number in range(first, last + 1)]
        todo += [text[: braces.start()] + choice + text[braces.end() :] for choice in reversed(choices)]
    return names
