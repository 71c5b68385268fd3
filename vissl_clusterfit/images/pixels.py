"""Pictures as the 8 bits that they are, until a device has them: a quarter of the bytes, and less to do here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from vissl_clusterfit.images.resized_crop import with_resized_crop

_STEPS = ("ToTensor", "Normalize")
_LARGEST, _NUM_COLOURS = 255.0, 3


class Finish:
    """What ``ToTensor`` and ``Normalize`` do, for a whole batch, on its device, with the same bits.

    Args:
        mean, std: of ``Normalize``, of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._constants = tuple(torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in (mean, std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels (..., C, H, W) uint8 as images float32; images that are finished as they are."""
        if images.dtype != torch.uint8:
            return images
        mean, std, largest = (
            each.to(images.device, non_blocking=True) for each in (*self._constants, torch.tensor(_LARGEST))
        )
        # By a tensor: CUDA multiplies by the reciprocal of a number, which has other last bits.
        return images.to(torch.float32).div_(largest).sub_(mean).div_(std)


class ToPixels:
    """In the place of ``ToTensor`` and ``Normalize``: pixels (3, H, W) uint8, or of another picture what they give.

    Pixels have their channels last in memory, as pictures do.
    """

    def __init__(self, to_tensor: Callable[[Any], Any], normalize: Callable[[Any], Any]) -> None:
        self._to_tensor, self._normalize = to_tensor, normalize

    def __call__(self, picture: Any) -> Any:
        """Of one picture."""
        if isinstance(picture, Image.Image) and picture.mode == "RGB":
            return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return self._normalize(self._to_tensor(picture))


def unfinished(steps: Sequence[Any]) -> tuple[list[Any], Finish] | None:
    """Transforms that leave their last two steps to a device, and these; None where the last two are others, or fail.

    Of a ``Resize`` and ``CenterCrop`` before them, only what is kept is computed.

    Args:
        steps: of torchvision, or VISSL's wrappers of such.
    """
    last = [getattr(step, "transform", step) for step in steps[-2:]]
    of_some = any(getattr(step, "indices", None) for step in steps[-2:])  # of VISSL's several images alone
    if tuple(type(step).__name__ for step in last) != _STEPS or of_some or not _fits_colours(last[1]):
        return None
    to_pixels: Any = ToPixels(*last)
    if last[0] is not steps[-2]:
        to_pixels, wrapped = copy.copy(steps[-2]), to_pixels
        to_pixels.transform = wrapped
    return [*with_resized_crop(steps[:-2]), to_pixels], Finish(last[1].mean, last[1].std)


def _fits_colours(normalize: Any) -> bool:
    """Whether ``Normalize`` can take pictures in colour: of others it is said with the sample."""
    mean, std = (torch.as_tensor(each).flatten() for each in (normalize.mean, normalize.std))
    return all(len(each) in (1, _NUM_COLOURS) for each in (mean, std)) and bool(std.all())
