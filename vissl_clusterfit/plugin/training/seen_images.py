"""The images that a training has seen: their size, how they are looked at without chance, and sizes that differ."""

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
        if crops := transform.get("size_crops"):  # multi-crop: features are of the whole image
            return int(max(crops))
        size = transform.get("size")
        if size is not None and ("Crop" in transform["name"] or transform["name"] == "Resize"):
            sides = {*size} if isinstance(size, Sequence) else {size}
            is_square = len(sides) == 1 and ("Crop" in transform["name"] or isinstance(size, Sequence))
            return int(next(iter(sides))) if is_square else None
    return None


def evaluation_transforms(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those without chance that go with a training: of its test, of its teacher, or by size and normalisation."""
    data = training["DATA"]
    if "TRAIN" not in data:
        return []
    trained = data["TRAIN"]["TRANSFORMS"]
    size = image_size(trained)
    labels = training.get("CLUSTERFIT", {}).get("TRAIN", {})
    known = [data.get("TEST", {}).get("TRANSFORMS"), labels.get("features", {}).get("transforms")]
    for transforms in filter(None, known):
        if size in (None, image_size(transforms)):
            return list(transforms)
    if size is None or "CLIPS" in data["TRAIN"]:
        return []
    normalize = [transform for transform in trained if transform["name"] == "Normalize"]
    sides = [{"name": "Resize", "size": round(size * 256 / 224)}, {"name": "CenterCrop", "size": size}]
    return [*sides, {"name": "ToTensor"}, *normalize]


def resized(
    transforms: Sequence[Mapping[str, Any]], size: int, trained: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Transforms for images of another size, with the normalisation of a training.

    Args:
        transforms: whose sizes all change in proportion.
        size: of the images that they are to give.
        trained: those of the training; without Normalize among them, there is none in what is returned.
    """
    before, normalize = image_size(transforms), [dict(step) for step in trained if step["name"] == "Normalize"]
    changed: list[dict[str, Any]] = []
    for step in transforms:
        if step["name"] == "Normalize":
            changed += normalize
        elif isinstance(of_step := step.get("size"), int):
            changed.append({**step, "size": round(of_step * size / before)} if before else dict(step))
        elif isinstance(of_step, Sequence) and before:
            changed.append({**step, "size": [round(side * size / before) for side in of_step]})
        else:
            changed.append(dict(step))
    return changed
