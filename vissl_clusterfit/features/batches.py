"""Samples of a data set as batches of images, and a network as a function of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from vissl_clusterfit.errors import DataError, problem


class ImageSource(Protocol):
    """A map-style data set that says for each index whether its sample could be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """The image (C, H, W), and why it could not be read: "" if it could.

        Of a sample of several images all of them, (num_images, C, H, W): its feature is the mean of theirs. So it is of
        clips of a video, (num_clips, C, T, H, W), of one clip alone, too.
        """

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,); see ``features/sample_list.py``."""

    def name_of(self, index: int) -> str:
        """The name of a sample, for messages."""


Encoder = Callable[[torch.Tensor], torch.Tensor]
#: From pixels uint8 to what an encoder takes, on the device of the pixels; see ``images/pixels.py``.
Finish = Callable[[torch.Tensor], torch.Tensor]


def encode_samples(encode: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of images (B, C, H, W), or the means of those of samples (B, num_images, C, H, W).

    Of clips there is always a number per sample: (B, num_clips, C, T, H, W).
    """
    if pixels.ndim < 5:
        return encode(pixels)
    return encode(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).mean(dim=1)


def stack_images(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Images of one shape, in one tensor.

    Raises:
        DataError: they differ in shape.
    """
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise DataError(
            problem(
                "FEATURES.TRANSFORMS",
                found=f"transforms that give images of several shapes ({shapes[0]}, {shapes[1]})",
                allowed="transforms that give every image the same shape",
                remedy="Add Resize and CenterCrop.",
            )
        )
    if images[0].dtype == torch.uint8 and images[0].ndim == 3:  # pixels stay as they are in memory, channels last
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return torch.stack(tuple(images))
