"""Small pictures of a folder, decoded once for all epochs of a training.

VISSL's data workers end with each epoch, and what they have decoded with them. Opening and decoding a small file takes
as long as all that is done with it afterwards. Forked workers keep such pictures in memory that they share with the
process of the training, and so with the workers of later epochs.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

from PIL import Image
from vissl.data.disk_dataset import DiskImageDataset

from vissl_clusterfit.storage.untrusted import require_regular

#: Of all pictures of a data source; more are read again in each epoch.
_MOST_BYTES = 64 << 20
_MODE, _CHANNELS = "RGB", 3


class SmallPictures:
    """Pictures of one size by their index, as they are decoded; others are not kept.

    Args:
        number: of the pictures.
        size: width and height.
    """

    def __init__(self, number: int, size: tuple[int, int]) -> None:
        self._size = size
        self._bytes = size[0] * size[1] * _CHANNELS
        # Pages come from the system when they are written, and are shared by all that are forked later.
        self._pixels = mmap.mmap(-1, number * self._bytes)
        self._there = mmap.mmap(-1, number)

    def get(self, index: int) -> Image.Image | None:
        """A picture that was kept, by whichever process."""
        if not self._there[index]:
            return None
        return Image.frombytes(_MODE, self._size, self._pixels[index * self._bytes : (index + 1) * self._bytes])

    def keep(self, index: int, picture: Image.Image) -> None:
        """Keeps a picture, if it has the size of the others."""
        if picture.size == self._size and picture.mode == _MODE:
            self._pixels[index * self._bytes : (index + 1) * self._bytes] = picture.tobytes()
            self._there[index] = 1

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A process that is not forked has none."""
        return type(None), ()


def keep_small_pictures(dataset: Any) -> None:
    """Has the folders of a data set keep their pictures, where all of them fit. Called before workers are forked.

    Args:
        dataset: a ``GenericSSLDataset``.
    """
    if dataset.cfg["MULTI_PROCESSING_METHOD"] != "fork":
        return
    for each in dataset.data_objs:
        source = getattr(each, "images", each)
        if not isinstance(source, DiskImageDataset) or source.data_source != "disk_folder" or not len(source):
            continue
        with contextlib.suppress(Exception):  # what cannot be opened is said where it is read
            path = source.image_dataset.samples[0][0]
            require_regular(path)
            with Image.open(path) as first:
                width, height = first.size
            if len(source) * width * height * _CHANNELS <= _MOST_BYTES:
                source.small_pictures = SmallPictures(len(source), (width, height))
