"""VISSL's ``TRANSFORMS`` at work: the step that fails is named, and its sample counts as unreadable."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torchvision.transforms
from PIL import Image
from torchvision.transforms import v2
from vissl.data.data_helper import get_mean_image

from vissl_clusterfit.errors import ClusterFitError, DataError
from vissl_clusterfit.images.resized_crop import ResizedCrop
from vissl_clusterfit.plugin.data.labelled_source import PseudoLabelledSource

logger = logging.getLogger(__name__)

_CROPS = (torchvision.transforms.CenterCrop, v2.CenterCrop)
_RESIZES = (torchvision.transforms.Resize, v2.Resize)


class TransformFailed(DataError):
    """One transform cannot take one image. ``given`` is VISSL's sample as it was before all transforms."""

    given: Mapping[str, Any] = {}


class Steps(torchvision.transforms.Compose):
    """What VISSL composes, each step with its name where it fails.

    A crop that is larger than the image is a failure, too, where torchvision fills up with black. An image that stands
    for one that cannot be read is taken as it is.
    """

    def __call__(self, sample: Any) -> Any:
        """Of VISSL's sample, a mapping with ``data``, the images of its sources, and ``data_valid``.

        Raises:
            TransformFailed: naming the transform and the size of the image.
        """
        # VISSL's own transforms put what they make into the sample that they get.
        given = {**sample, "data": list(sample["data"])} if isinstance(sample, Mapping) else {}
        for step in self.transforms:
            sizes = [_size(image) for image in sample["data"]] if isinstance(sample, Mapping) else []
            try:
                if sizes and _needs_room(step) and all(valid == 1 for valid in sample["data_valid"]):
                    _require_room(step, sizes)
                sample = step(sample)
            except ClusterFitError:
                raise
            except Exception as error:  # a library's transforms raise anything
                shown = " and ".join(f"{width} x {height} pixels" for width, height in filter(None, sizes))
                of = f" of {shown}" if shown else ""
                raise _failed(f"{step_name(step)}, for an image{of}: {type(error).__name__}: {error}", given) from None
        return sample


def _failed(text: str, given: Mapping[str, Any]) -> TransformFailed:
    error = TransformFailed(text)
    error.given = given
    return error


def named_steps(get_transform: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """Wraps VISSL's ``get_transform``."""

    @functools.wraps(get_transform)
    def get(transforms: Sequence[Any]) -> Steps:
        return Steps(get_transform(transforms).transforms)

    return get


def tolerant_samples(get_item: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """Wraps ``GenericSSLDataset.__getitem__``: a sample that the transforms cannot take is unreadable, and is named.

    A training that runs for days does not end with the one image of which no crop can be cut. Data sets that report
    failures themselves have ``transforms_setting``, where their transforms are, and get a ``TransformFailed``.
    """

    @functools.wraps(get_item)
    def get(dataset: Any, index: int) -> Any:
        try:
            return get_item(dataset, index)
        except TransformFailed as error:
            text, subset = str(error).rstrip("."), dataset.image_and_label_subset
            place = index if subset is None else int(subset[index])
            files = [_file(getattr(source, "images", source), place) for source in dataset.data_objs]
            setting = getattr(dataset, "transforms_setting", f"config.DATA.{dataset.split}.TRANSFORMS")
            named = f"{setting}: {text}. The sample is {' | '.join(files)}."
            failed = _failed(f"{named} Change the transforms, or leave it out.", error.given)
        if hasattr(dataset, "transforms_setting"):
            raise failed
        sample = grey_sample(dataset, failed)
        logger.warning("%s It counts as unreadable.", named)
        return sample

    return get


def grey_sample(dataset: Any, error: TransformFailed) -> dict[str, Any]:
    """What stands for a sample that the transforms cannot take, as for one that cannot be read.

    It has no pseudo-label; a true label stays, as VISSL does it with images that cannot be read.

    Raises:
        TransformFailed: the same, where the transforms cannot take a grey image either.
    """
    size, count = dataset.cfg["DATA"][dataset.split].DEFAULT_GRAY_IMG_SIZE, len(dataset.data_objs)
    grey = {**error.given, "data": [get_mean_image(size) for _ in range(count)], "data_valid": [-1] * count}
    of_labels = any(isinstance(source, PseudoLabelledSource) for source in dataset.data_objs)
    if of_labels or dataset.label_type == "sample_index":
        grey["label"] = [0 * label - 1 for label in grey["label"]]
    try:
        return dataset.transform(grey)
    except TransformFailed:  # it is the transforms, or these are clips
        raise error from None


def _file(source: Any, index: int) -> str:
    return str(source.get_image_paths()[index]) if hasattr(source, "get_image_paths") else f"number {index}"


def step_name(step: Any) -> str:
    """What a transform is called in a config."""
    return getattr(step, "name", type(step).__name__)


def _size(image: Any) -> tuple[int, int] | None:
    """Width and height."""
    if isinstance(image, Image.Image):
        return image.size
    if isinstance(image, torch.Tensor) and image.ndim >= 3:
        return int(image.shape[-1]), int(image.shape[-2])
    return None


def _needs_room(step: Any) -> bool:
    return isinstance(_transform(step), _CROPS + _RESIZES)


def _transform(step: Any) -> Any:
    """Torchvision's; of a crop that is joined to it, ``Resize``, after which there is room."""
    transform = getattr(step, "transform", step)
    return transform.resize if isinstance(transform, ResizedCrop) else transform


def _require_room(step: Any, sizes: Sequence[tuple[int, int] | None]) -> None:
    """Refuses a crop that is larger than an image, and an image that would be scaled beyond all measure."""
    transform = _transform(step)
    for width, height in filter(None, sizes):
        if isinstance(transform, _CROPS):
            tall, wide = (transform.size * 2)[:2] if isinstance(transform.size, Sequence) else (transform.size,) * 2
            if width < wide or height < tall:
                raise ValueError(f"the crop of {wide} x {tall} pixels is larger than the image. Put Resize before it")
        if isinstance(transform, _RESIZES):
            side = transform.size[0] if isinstance(transform.size, Sequence) and transform.size else transform.size
            one_side = not isinstance(transform.size, Sequence) or len(transform.size) == 1
            num_pixels = side * side * max(width, height) // max(1, min(width, height)) if one_side and side else 0
            # What Pillow refuses to open; a long strip becomes it here.
            if num_pixels > 2 * (Image.MAX_IMAGE_PIXELS or math.inf) and not transform.max_size:
                raise ValueError(f"it would become one of {num_pixels:,} pixels")
