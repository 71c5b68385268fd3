"""VISSL's ``TRANSFORMS``, checked before anything starts: built, tried on a picture, and random ones found."""

from __future__ import annotations

import contextlib
import copy
import difflib
import inspect
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms
from classy_vision.dataset.transforms import TRANSFORM_REGISTRY
from PIL import Image
from torchvision.tv_tensors import Video
from vissl.config import AttrDict
from vissl.data.ssl_transforms.ssl_transforms_wrapper import DEFAULT_TRANSFORM_TYPES, SSLTransformsWrapper

from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem
from vissl_clusterfit.plugin.data.transform_steps import Steps, step_name

# Width and height of the pictures that transforms are tried on: some crop of a square one has nothing to choose. The
# large ones are tried only where the others are too small.
_SIZES = ((160, 120), (96, 96), (500, 750), (2048, 1536), (4096, 4096))
_FEW = 3
# Each process makes several data sets of the same transforms.
_FOUND_FIXED: set[tuple[bool, str]] = set()


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
                if draws or other or re.match("(Clip)?Rand", step_name(step)):
                    found[number] = step_name(step)
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
