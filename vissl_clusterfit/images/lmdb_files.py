"""Images in an LMDB: each value the bytes of an image file, as in LSUN's; a sample's name is its key."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.names import PackedNames

#: By path: the process that has opened it and the file that it was, and the data base.
_open_bases: dict[str, tuple[tuple[int, ...], Any]] = {}


def is_lmdb(place: str) -> bool:
    """Whether a folder or a file has a data base of this kind, by its name."""
    return os.path.isfile(os.path.join(place, "data.mdb")) or place.lower().endswith((".mdb", ".lmdb"))


class LmdbImages(Images):
    """The values of an LMDB, in the order of their keys. Keys as ``__len__`` are those of its writer, and left out.

    Raises:
        DataError: it cannot be read, or is empty.
    """

    kind = "an LMDB of images"

    def __init__(self, place: str, *, exif: bool = True) -> None:
        require("lmdb")
        import lmdb

        try:
            with _base(place).begin(buffers=True) as transaction:
                found = [(bytes(key), len(value)) for key, value in transaction.cursor()]
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{place} cannot be read as an LMDB: {error}.") from None
        found = [(key, size) for key, size in found if not (key.startswith(b"__") and key.endswith(b"__"))]
        if not found:
            raise DataError(problem(place, found="no value", allowed="image files, each under a key"))
        super().__init__(place, PackedNames(os.fsdecode(key) for key, _ in found), exif=exif)
        self._sizes = np.array([size for _, size in found], dtype=np.int64)

    def _open(self, index: int) -> Image.Image:
        with _base(self.place).begin() as transaction:
            value = transaction.get(os.fsencode(self.names[index]))
        if value is None:
            raise KeyError("the key is gone")
        return Image.open(io.BytesIO(value))

    def _marks(self) -> Iterator[str]:
        return map(str, self._sizes)


def _base(place: str) -> Any:
    """A data base, opened by this process, once for all that read it: the library refuses a second time."""
    import lmdb

    path = os.path.realpath(place)
    state = os.stat(os.path.join(path, "data.mdb") if os.path.isdir(path) else path)
    which = (os.getpid(), state.st_dev, state.st_ino)
    opened_as, base = _open_bases.get(path, (None, None))
    if opened_as != which:
        if base is not None:  # of the process that this one was forked from, which keeps its own
            base.close()
        folder = os.path.isdir(path)
        base = lmdb.open(path, subdir=folder, readonly=True, create=False, lock=False, readahead=False, meminit=False)
        _open_bases[path] = which, base
    return base
