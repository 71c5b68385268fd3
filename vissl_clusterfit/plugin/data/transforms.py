"""VISSL's ``TRANSFORMS``: built, tried on a picture before the data are, and named where one fails."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms
from classy_vision.dataset.transforms import TRANSFORM_REGISTRY
from PIL import Image
from torchvision.transforms import v2
from torchvision.tv_tensors import Video
from vissl.config import AttrDict
from vissl.data.ssl_transforms.ssl_transforms_wrapper import DEFAULT_TRANSFORM_TYPES, SSLTransformsWrapper

from vissl_clusterfit.errors import ClusterFitError, ConfigError, DataError, problem

# Width and height of the pictures that transforms are tried on: some crop of a square one has nothing to choose. The
# large ones are tried only where the others are too small.
_SIZES = ((160, 120), (96, 96), (500, 750), (2048, 1536), (4096, 4096))
_FEW = 3
# Each process makes several data sets of the same transforms.
_FOUND_FIXED: set[tuple[bool, str]] = set()


class TransformFailed(DataError):
    """One transform cannot take one image."""


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
        for step in self.transforms:
            sizes = [_size(image) for image in sample["data"]] if isinstance(sample, Mapping) else []
            try:
                if sizes and all(valid == 1 for valid in sample["data_valid"]):
                    _require_room(step, sizes)
                sample = step(sample)
            except ClusterFitError:
                raise
            except Exception as error:  # a library's transforms raise anything
                shown = " and ".join(f"{width} x {height} pixels" for width, height in filter(None, sizes))
                of = f" of {shown}" if shown else ""
                raise TransformFailed(f"{_name(step)}, for an image{of}: {type(error).__name__}: {error}") from None
        return sample


def named_steps(get_transform: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """Wraps VISSL's ``get_transform``."""

    @functools.wraps(get_transform)
    def get(transforms: Sequence[Any]) -> Steps:
        return Steps(get_transform(transforms).transforms)

    return get


def named_samples(get_item: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """Wraps ``GenericSSLDataset.__getitem__``: which sample a transform failed on."""

    @functools.wraps(get_item)
    def get(dataset: Any, index: int) -> Any:
        try:
            return get_item(dataset, index)
        except TransformFailed as error:
            text, subset = str(error).rstrip("."), dataset.image_and_label_subset
            place = index if subset is None else int(subset[index])
            files = [_file(getattr(source, "images", source), place) for source in dataset.data_objs]
            setting = getattr(dataset, "transforms_setting", f"config.DATA.{dataset.split}.TRANSFORMS")
            raise TransformFailed(
                f"{setting}: {text}. The sample is {' | '.join(files)}. Change the transforms, or leave it out."
            ) from None

    return get


def _file(source: Any, index: int) -> str:
    return str(source.get_image_paths()[index]) if hasattr(source, "get_image_paths") else f"number {index}"


def require_transforms(transforms: Any, setting: str) -> None:
    """Refuses, before anything starts, what is no list of transforms, or fails on every picture.

    Raises:
        ConfigError: naming the transform, what it takes, and names that are near an unknown one.
    """
    steps = build_steps(transforms, setting)
    failure = _failure_on_all(steps, map(_picture, _SIZES))
    if failure:
        raise ConfigError(problem(setting, found=failure, allowed="transforms that images can go through"))


def require_fixed(transforms: Any, setting: str, *, of_clips: bool = False) -> None:
    """The same, and refuses transforms that are random: features that are extracted again would be others.

    Args:
        transforms: in the form of VISSL's ``TRANSFORMS``.
        setting: where they are.
        of_clips: whether they take clips of video.

    Raises:
        ConfigError: naming the random ones.
    """
    tried = (of_clips, repr(transforms))
    if tried in _FOUND_FIXED:
        return
    if not of_clips:
        require_transforms(transforms, setting)
    steps = build_steps(transforms, setting)
    found = _random_steps(steps, of_clips)
    if found:
        raise ConfigError(
            problem(
                setting,
                found=f"random transforms: {', '.join(found)}",
                allowed="transforms that give the same for the same image, always",
                remedy="Features are taken once. Leave them out, or crop with CenterCrop.",
            )
        )
    _FOUND_FIXED.add(tried)


def build_steps(transforms: Any, setting: str) -> Steps:
    """The transforms of a config.

    Raises:
        ConfigError: as :func:`require_transforms`.
    """
    allowed = "a list of transforms, each a mapping with its name and arguments"
    if isinstance(transforms, (str, Mapping)) or not isinstance(transforms, Sequence):
        raise ConfigError(problem(setting, found=repr(transforms), allowed=allowed))
    steps = []
    for number, block in enumerate(transforms):
        place = f"{setting}[{number}]"
        if not isinstance(block, Mapping) or not isinstance(block.get("name"), str):
            raise ConfigError(problem(place, found=repr(block), allowed="a mapping with the name of a transform"))
        steps.append(_build(AttrDict(copy.deepcopy(dict(block))), place))
    return Steps(steps)


def _build(block: AttrDict, place: str) -> Any:
    name = block["name"]
    if "transform_type" not in block and name not in (known := _known()):
        near = difflib.get_close_matches(name, known, n=3)
        remedy = f"Did you mean {' or '.join(near)}?" if near else ""
        allowed = "a transform of torchvision, Classy Vision or VISSL"
        raise ConfigError(problem(place, found=f"the unknown transform {name!r}", allowed=allowed, remedy=remedy))
    try:
        return SSLTransformsWrapper.from_config(block, transform_types=DEFAULT_TRANSFORM_TYPES)
    except ClusterFitError:
        raise
    except Exception as error:  # whatever a constructor makes of arguments
        arguments = {key: value for key, value in block.items() if key != "name"}
        raise ConfigError(
            problem(
                f"{place} ({name})",
                found=f"{arguments}, which it refuses: {type(error).__name__}: {error}",
                allowed=_arguments(name),
            )
        ) from None


def _known() -> list[str]:
    of_torchvision = [name for name, kind in vars(torchvision.transforms).items() if inspect.isclass(kind)]
    return sorted({*TRANSFORM_REGISTRY, *of_torchvision})


def _arguments(name: str) -> str:
    kind = TRANSFORM_REGISTRY.get(name) or getattr(torchvision.transforms, name, None)
    try:
        return f"the arguments {inspect.signature(kind)}" if kind else "its arguments"
    except (TypeError, ValueError):
        return "its arguments"


def _picture(size: tuple[int, int]) -> Image.Image:
    """A picture in which every shift, turn and colour shows; large ones are made only when they are needed."""
    width, height = size
    ramp = np.add.outer(np.arange(height, dtype=np.uint32) * 7, np.arange(width, dtype=np.uint32) * 3)
    return Image.fromarray(np.stack([ramp % 251, ramp % 199, ramp % 127], axis=2).astype(np.uint8))


def _clip(size: tuple[int, int]) -> Video:
    picture = np.asarray(_picture(size)).transpose(2, 0, 1)
    return Video(torch.from_numpy(np.stack([np.roll(picture, shift, axis=2) for shift in range(4)])))


def _sample(image: Any) -> dict[str, Any]:
    return {"data": [image], "data_valid": [1], "data_idx": [0], "label": [0]}


def _failure_on_all(steps: Steps, pictures: Iterable[Any]) -> str:
    """What the transforms fail with, on the largest picture; "" where one goes through."""
    failure = ""
    with _same_random_numbers():
        for picture in pictures:
            try:
                steps(_sample(picture))
            except ClusterFitError as error:
                failure = str(error)
            else:
                return ""
    return failure


def _random_steps(steps: Steps, of_clips: bool) -> list[str]:
    """The names of those that draw random numbers, from whatever source, or give another image the second time."""
    found = {}
    for size in _SIZES[:_FEW]:
        with _same_random_numbers():
            sample: Any = _sample(_clip(size) if of_clips else _picture(size))
            for number, step in enumerate(steps.transforms):
                before, again = _random_state(), copy.deepcopy(sample)
                try:
                    sample = Steps([step])(sample)
                    draws = _random_state() != before
                    other = _pixels(Steps([step])(again)) != _pixels(sample)
                except ClusterFitError:
                    draws, other = _random_state() != before, False
                if draws or other or re.match("(Clip)?Rand", _name(step)):
                    found[number] = _name(step)
                if not isinstance(sample, Mapping) or not sample["data"]:
                    break
    return [found[number] for number in sorted(found)]


def _pixels(sample: Any) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in sample["data"]] if isinstance(sample, Mapping) else []


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """What is drawn in the block changes nothing that is drawn after it."""
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def _name(step: Any) -> str:
    return getattr(step, "name", type(step).__name__)


def _size(image: Any) -> tuple[int, int] | None:
    """Width and height."""
    if isinstance(image, Image.Image):
        return image.size
    if isinstance(image, torch.Tensor) and image.ndim >= 3:
        return int(image.shape[-1]), int(image.shape[-2])
    return None


def _require_room(step: Any, sizes: Sequence[tuple[int, int] | None]) -> None:
    """Refuses a crop that is larger than an image, and an image that would be scaled beyond all measure."""
    transform = getattr(step, "transform", step)
    for width, height in filter(None, sizes):
        if isinstance(transform, (torchvision.transforms.CenterCrop, v2.CenterCrop)):
            tall, wide = (transform.size * 2)[:2] if isinstance(transform.size, Sequence) else (transform.size,) * 2
            if width < wide or height < tall:
                raise ValueError(f"the crop of {wide} x {tall} pixels is larger than the image. Put Resize before it")
        if isinstance(transform, (torchvision.transforms.Resize, v2.Resize)):
            side = transform.size[0] if isinstance(transform.size, Sequence) and transform.size else transform.size
            one_side = not isinstance(transform.size, Sequence) or len(transform.size) == 1
            num_pixels = side * side * max(width, height) // max(1, min(width, height)) if one_side and side else 0
            # What Pillow refuses to open; a long strip becomes it here.
            if num_pixels > 2 * (Image.MAX_IMAGE_PIXELS or math.inf) and not transform.max_size:
                raise ValueError(f"it would become one of {num_pixels:,} pixels")
