"""The size of the images that transforms give, and what is said where two do not go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def size_warning(setting: str, transforms: Sequence[Mapping[str, Any]], trained: int | None, network: str) -> list[str]:
    """What is said where features are of images of another size than those that a network knows; else nothing."""
    size = image_size(transforms)
    if None in (trained, size) or trained == size:
        return []
    trained_with = f"{network} was trained with {trained}. Features are best at that size."
    return [f"warning: {setting}: images of {size} pixels, and {trained_with}"]


def image_size(transforms: Sequence[Mapping[str, Any]]) -> int | None:
    """The side of the square images that transforms give, in pixels; None where they do not say one."""
    for transform in reversed(transforms):
        size = transform.get("size")
        if size is not None and ("Crop" in transform["name"] or transform["name"] == "Resize"):
            sides = {*size} if isinstance(size, Sequence) else {size}
            is_square = len(sides) == 1 and ("Crop" in transform["name"] or isinstance(size, Sequence))
            return int(next(iter(sides))) if is_square else None
    return None
