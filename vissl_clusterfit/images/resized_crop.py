"""``Resize`` and ``CenterCrop`` in one step, which computes little more than the crop keeps: the same bits, sooner."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from PIL import Image

_MODULE, _STEPS = "torchvision.transforms.transforms", ("Resize", "CenterCrop")
# What torchvision calls filters of Pillow, and how far they reach, in pixels of the smaller of the two pictures.
_FILTERS = {
    "bilinear": (Image.Resampling.BILINEAR, 1),
    "bicubic": (Image.Resampling.BICUBIC, 2),
    "lanczos": (Image.Resampling.LANCZOS, 3),
}
# Integers below it are exact in float32, in which Pillow takes a box.
_EXACT = 1 << 24
# Times its width is the height of a strip of which releases of Pillow before 13 resize columns first; since, it is one
# that loses more than twice as many rows as columns.
_LONG = 100


class ResizedCrop:
    """In the place of ``Resize`` and the ``CenterCrop`` after it, of pictures in colour.

    Pillow resizes rows, rounds to 8 bits, and then resizes columns. Pixels that the crop does not see are left out
    where that cannot change the others: rows before the first pass, columns after it. A box, which leaves them out in a
    pass, has the same weights where the scale is a number that floating point has exactly, as that of ``Resize(256)``
    along the shorter side. Of long upright strips Pillow resizes columns first; these go through both steps.

    Args:
        resize: of torchvision, whose result is at least as large as the crop.
        crop: after it.

    Attributes:
        resize: the same.
    """

    def __init__(self, resize: Any, crop: Any) -> None:
        self.resize, self._crop = resize, crop
        self._filter, self._reach = _FILTERS[resize.interpolation.value]
        self._side = _sides(resize.size)

    def __call__(self, picture: Any) -> Any:
        """The crop of one picture; of what is no picture in colour, what both give."""
        if not isinstance(picture, Image.Image) or picture.mode != "RGB":
            return self._crop(self.resize(picture))
        width, height = picture.size
        resized_height, resized_width = self._resized(width, height)
        if height > _LONG * width or 0 < height - resized_height > 2 * (width - resized_width):
            return self._crop(self.resize(picture))
        tall, wide = _both(self._crop.size)
        across = _part(width, resized_width, wide, self._reach)
        down = _part(height, resized_height, tall, self._reach)
        number = down.last - down.first
        if across.box is None:
            rows = picture.crop((0, down.first, width, down.last)).resize((resized_width, number), self._filter)
            strip = rows.crop((across.skipped, 0, across.skipped + wide, number))
        else:
            rows = picture.crop((across.first, down.first, across.last, down.last))
            strip = rows.resize((wide, number), self._filter, (across.box[0], 0, across.box[1], number))
        if down.box is not None:
            return strip.resize((wide, tall), self._filter, (0, down.box[0], wide, down.box[1]))
        whole = Image.new("RGB", (wide, height))  # of which the crop sees no other row
        whole.paste(strip, (0, down.first))
        columns = whole.resize((wide, resized_height), self._filter)
        return columns.crop((0, down.skipped, wide, down.skipped + tall))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Height and width, as torchvision computes them."""
        if len(self._side) == 2:
            return self._side[0], self._side[1]
        short, long = self._side[0], int(self._side[0] * max(width, height) / min(width, height))
        return (long, short) if width <= height else (short, long)


class _Part(NamedTuple):
    """Of one side: which pixels the crop sees, how many it leaves out before it, and where it is among those it sees.

    The last is None where floating point would put it elsewhere.
    """

    first: int
    last: int
    skipped: int
    box: tuple[float, float] | None


@functools.lru_cache(1024)
def _part(length: int, resized: int, kept: int, reach: int) -> _Part:
    """Of a side that is resized, and of which the middle is kept."""
    scale, skipped = Fraction(length, resized), round((resized - kept) / 2)
    low, high, near = skipped * scale, (skipped + kept) * scale, reach * max(scale, Fraction(1))
    first, last = max(0, math.floor(low - near) - 1), min(length, math.ceil(high + near) + 1)
    parts = scale.denominator
    is_exact = parts & (parts - 1) == 0 and length * parts < _EXACT
    return _Part(first, last, skipped, (float(low - first), float(high - first)) if is_exact else None)


def with_resized_crop(steps: Sequence[Any]) -> list[Any]:
    """The same transforms, with each ``Resize`` and the ``CenterCrop`` right after it as one, where they can be.

    Args:
        steps: of torchvision, or VISSL's wrappers of such.
    """
    joined: list[Any] = []
    for step in steps:
        both = [getattr(each, "transform", each) for each in (*joined[-1:], step)]
        of_some = any(getattr(each, "indices", None) for each in (*joined[-1:], step))  # of several images alone
        if len(both) < 2 or of_some or not _fit(*both):
            joined.append(step)
            continue
        resized_crop: Any = ResizedCrop(*both)
        if both[1] is not step:
            resized_crop, wrapped = copy.copy(joined[-1]), resized_crop  # whose name a failure has
            resized_crop.transform = wrapped
        joined[-1] = resized_crop
    return joined


def _fit(resize: Any, crop: Any) -> bool:
    """Whether they are torchvision's, and every picture has room for the crop."""
    kinds = type(resize), type(crop)
    if tuple(kind.__name__ for kind in kinds) != _STEPS or {kind.__module__ for kind in kinds} != {_MODULE}:
        return False
    if resize.max_size is not None or resize.interpolation.value not in _FILTERS:
        return False
    if resize.antialias is False:  # of which torchvision warns
        return False
    tall, wide = _both(crop.size)
    least = _both(resize.size)
    return all(type(side) is int for side in (*least, tall, wide)) and 0 < tall <= least[0] and 0 < wide <= least[1]


def _sides(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, Sequence) else (size,)


def _both(size: Any) -> tuple[int, int]:
    height, *width = _sides(size)
    return height, (width or [height])[0]
