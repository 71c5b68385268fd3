"""Transforms of clips under VISSL's ``TRANSFORMS``: torchvision's, the same for all frames, and what ends in a batch.

A clip comes as :class:`torchvision.tv_tensors.Video`, uint8 (T, C, H, W), and leaves as float32 (C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import Video

from vissl_clusterfit.errors import ConfigError, problem

#: Those of torchvision.transforms.v2 that are registered, as ``Clip<name>`` with their own arguments. Some others, as
#: RandomGrayscale, let videos through as they are.
OF_TORCHVISION = (
    "CenterCrop",
    "ColorJitter",
    "GaussianBlur",
    "RandAugment",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomShortestSize",
    "Resize",
)


class OfTorchvision:
    """What VISSL builds a transform of torchvision's from, by its name."""

    def __init__(self, name: str) -> None:
        self._transform = getattr(v2, name)

    def from_config(self, config: Mapping[str, Any]) -> v2.Transform:
        """With the arguments that a config gives."""
        return self._transform(**config)


class _FromConfig:
    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """With the arguments that a config gives."""
        return cls(**config)


class ClipToTensor(_FromConfig):
    """The last transform: float32 (C, T, H, W) in [0, 1], or standardised by the means and deviations of the channels.

    Config params:
        mean, std: three numbers each; both or none.
    """

    def __init__(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        if len(mean) != len(std):
            allowed = "a mean and a std for each channel, or neither"
            raise ConfigError(problem("ClipToTensor", found=f"mean {list(mean)}, std {list(std)}", allowed=allowed))
        self._mean, self._std = ((torch.tensor(list(values)).view(-1, 1, 1, 1)) for values in (mean, std))

    def __call__(self, clip: Video) -> torch.Tensor:
        """Of a clip uint8 (T, C, H, W)."""
        pixels = clip.as_subclass(torch.Tensor).transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
        pixels /= 255
        return pixels.sub_(self._mean).div_(self._std) if len(self._mean) else pixels


class ClipCrops(_FromConfig):
    """Square crops spread along the longer side, each a separate view: 3 of them see all of a wide picture.

    Config params:
        size: side of the squares in pixels, at most the shorter side of the clip (put ``ClipResize`` before).
        num: how many; one alone is cut from the middle.
    """

    def __init__(self, size: int, num: int = 3) -> None:
        self._size, self._num = size, num

    def __call__(self, clip: Video) -> list[Video]:
        """Of a clip (T, C, H, W) ``num`` clips (T, C, size, size).

        Raises:
            ConfigError: the clip is smaller than the crop.
        """
        room = [side - self._size for side in clip.shape[-2:]]
        if min(room) < 0:
            found = f"size: {self._size} for frames of {clip.shape[-1]} x {clip.shape[-2]}"
            allowed = "at most the shorter side"
            raise ConfigError(problem("ClipCrops", found=found, allowed=allowed, remedy="Put ClipResize before it."))
        crops = []
        for number in range(self._num):
            share = number / (self._num - 1) if self._num > 1 else 0.5
            # Along the shorter side, all of them are in the middle.
            top, left = (round(space * (share if space == max(room) else 0.5)) for space in room)
            crops.append(Video(clip[..., top : top + self._size, left : left + self._size]))
        return crops


class ClipsToViews(_FromConfig):
    """Makes the clips of a video, which are one sample, views of it. The first transform, or none."""

    def __init__(self) -> None: ...

    def __call__(self, clips: Video | list[Video]) -> list[Video]:
        """Of one clip or several."""
        return clips if isinstance(clips, list) else [clips]


#: Those that give several views of a sample, which VISSL has to know by name.
OF_VIEWS = (ClipCrops, ClipsToViews)
