"""Images in one array, as CIFAR's often are: ``.npy``, which is mapped, or one array of an ``.npz``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.labels import as_labels
from vissl_clusterfit.images.names import PackedNames
from vissl_clusterfit.storage.npz_files import load_npz_array, npz_names
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_array

_ALLOWED = "images as uint8 (N, H, W, 3), or in grey (N, H, W) or (N, H, W, 1)"
_HASHED_AT_ONCE, _NUM_THREADS = 256, 4


class ArrayImages(Images):
    """Images uint8 (N, H, W, 3), or grey ones (N, H, W); a sample's name is its number, and its hash shows a change.

    Args:
        place: the file.
        column: the name of the array in an ``.npz``; needed where it has several.
        labels: the names of arrays of labels in an ``.npz``.

    Raises:
        DataError: it is no such array, or one of several.
    """

    kind = "an array of images"

    def __init__(self, place: str, *, column: str = "", labels: Sequence[str] = ()) -> None:
        self._column = column
        self._loaded: np.ndarray | None = None
        if not place.lower().endswith(".npz"):
            if column or labels:
                found = f"{place}, which is one array without a name"
                raise DataError(problem("IMAGES.COLUMN, LABELS", found=found, allowed="an .npz"))
        elif not column:
            self._column = _only_array(place)
        self.place = place
        pixels = self._pixels()
        _require_images(place, self._column, pixels)
        super().__init__(place, PackedNames(map(str, range(len(pixels)))), exif=False)  # it has none
        if labels:
            self.labels = as_labels([(name, _array_of(place, name)) for name in labels], len(self), place)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}  # another process maps or reads it again

    def _pixels(self) -> np.ndarray:
        if self._loaded is None:
            try:
                self._loaded = (
                    _array_of(self.place, self._column) if self._column else load_array(Path(self.place), mmap=True)
                )
            except (OSError, ValueError, MemoryError) as error:
                raise DataError(f"{self.place} cannot be read as an array: {error}.") from None
        return self._loaded

    def _open(self, index: int) -> Image.Image:
        pixels = np.array(self._pixels()[index])
        return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)

    def _marks(self) -> Iterator[str]:
        pixels = self._pixels()

        def hashes(start: int) -> list[str]:
            rows = pixels[start : start + _HASHED_AT_ONCE]
            return [hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=8).hexdigest() for row in rows]

        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            for start in range(0, len(pixels), _HASHED_AT_ONCE * _NUM_THREADS):
                stop = min(start + _HASHED_AT_ONCE * _NUM_THREADS, len(pixels))
                for block in threads.map(hashes, range(start, stop, _HASHED_AT_ONCE)):
                    yield from block


def _require_images(place: str, column: str, pixels: np.ndarray) -> None:
    shape = pixels.shape
    # Of three axes, the last one of a single picture in colour would be taken for its width.
    fits = (len(shape) == 3 and shape[2] > 4) or (len(shape) == 4 and shape[3] in (1, 3))
    if fits and pixels.dtype == np.uint8 and 0 not in shape:
        return
    remedy = ""
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        remedy = "Save it again with the colours last: array.transpose(0, 2, 3, 1)."
    elif pixels.dtype != np.uint8:
        remedy = "Save it again as uint8, from 0 to 255."
    found = f"an array of {pixels.dtype} of shape {shape}"
    raise DataError(problem(f"{place}{column and ': '}{column}", found=found, allowed=_ALLOWED, remedy=remedy))


def _names(place: str) -> list[str]:
    try:
        return npz_names(Path(place))
    except UnsafeFileError as error:
        raise DataError(f"{place} cannot be read as .npz: {error}.") from None


def _only_array(place: str) -> str:
    names = _names(place)
    if len(names) != 1:
        raise DataError(
            problem(
                place,
                found=f"{len(names)} arrays: {', '.join(names)}",
                allowed="one, or the name of that with the images",
                remedy="Name it: column= in Python, --column of a command, config.DATA.<SPLIT>.IMAGES.COLUMN in a "
                "config; arrays of labels are named by labels=, IMAGES.LABELS.",
            )
        )
    return names[0]


def _array_of(place: str, name: str) -> np.ndarray:
    names = _names(place)
    if name not in names:
        raise DataError(problem(place, found=f"no array {name!r}", allowed=" | ".join(names)))
    try:
        return load_npz_array(Path(place), name)
    except UnsafeFileError as error:
        raise DataError(f"{place}: {name} cannot be read: {error}.") from None
