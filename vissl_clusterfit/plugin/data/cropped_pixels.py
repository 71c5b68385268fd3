"""``RandomCrop`` of a picture as a part of its pixels: the same crop, in fewer steps than Pillow's.

Padding by Pillow, asking for sizes and cropping are a dozen of calls, which take longer than the pixels of a picture of
24 x 24. Random numbers are drawn as torchvision draws them, so a training sees the same crops.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms
from PIL import Image

_NUM_SIDES, _NUM_COLOURS = (1, 2, 4), 3


class CroppedPixels:
    """In the place of ``RandomCrop`` and ``ToPixels``.

    Args:
        crop: with constant padding, or none.
        to_pixels: what comes after it, which pictures that are not in colour go through as before.
    """

    def __init__(self, crop: torchvision.transforms.RandomCrop, to_pixels: Callable[[Any], Any]) -> None:
        self._crop, self._to_pixels = crop, to_pixels
        self._left, self._top, self._right, self._bottom = _sides(crop.padding)

    def __call__(self, picture: Any) -> Any:
        """Pixels (3, H, W) uint8 of one picture, channels last in memory."""
        if isinstance(picture, Image.Image) and picture.mode == "RGB":
            width, height = picture.size
            rows, columns = height + self._top + self._bottom, width + self._left + self._right
            tall, wide = self._crop.size
            if rows >= tall and columns >= wide:
                padded = np.empty((rows, columns, _NUM_COLOURS), np.uint8)
                padded[:] = self._crop.fill
                padded[self._top : self._top + height, self._left : self._left + width] = np.asarray(picture)
                row = column = 0
                if (rows, columns) != (tall, wide):
                    row = torch.randint(0, rows - tall + 1, size=(1,)).item()
                    column = torch.randint(0, columns - wide + 1, size=(1,)).item()
                return torch.from_numpy(padded[row : row + tall, column : column + wide]).permute(2, 0, 1)
        return self._to_pixels(self._crop(picture))


def with_cropped_pixels(steps: Sequence[Any]) -> list[Any]:
    """The same transforms, of which the last gives pixels, with a ``RandomCrop`` before it joined to it, if it can be.

    Args:
        steps: VISSL's wrappers of torchvision's, as :func:`vissl_clusterfit.images.pixels.unfinished` leaves them.
    """
    if len(steps) < 2:
        return [*steps]
    crop, last = (getattr(step, "transform", None) for step in steps[-2:])
    if type(crop) is not torchvision.transforms.RandomCrop or getattr(steps[-2], "indices", None):
        return [*steps]
    fill = crop.fill if isinstance(crop.fill, Sequence) else [crop.fill]
    fits = all(type(each) is int and 0 <= each <= 255 for each in fill) and len(fill) in (1, _NUM_COLOURS)
    if not fits or crop.padding_mode != "constant" or crop.pad_if_needed or min(_sides(crop.padding)) < 0:
        return [*steps]
    joined = copy.copy(steps[-2])  # whose name a failure has
    joined.transform = CroppedPixels(crop, last)
    return [*steps[:-2], joined]


def _sides(padding: Any) -> tuple[int, int, int, int]:
    """Pixels to the left, above, to the right and below; -1 for what is none of torchvision's forms."""
    given = [0] if padding is None else [*padding] if isinstance(padding, Sequence) else [padding]
    if len(given) not in _NUM_SIDES or not all(type(each) is int for each in given):
        return -1, -1, -1, -1
    left, top, right, bottom = given * (4 // len(given))
    return left, top, right, bottom
