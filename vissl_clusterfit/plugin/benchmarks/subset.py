"""Some of the images of a split, for benchmarks that look at few of many."""

from __future__ import annotations

import numpy as np
import torch

from vissl_clusterfit.features.extract import ImageSource


class SomeImages:
    """The images at ``indices``, ascending, of ``images``."""

    def __init__(self, images: ImageSource, indices: np.ndarray) -> None:
        self._images = images
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self._images[int(self._indices[index])]

    @property
    def samples(self) -> np.ndarray:
        """The part of the ordered sample list."""
        return self._images.samples[self._indices]

    def name_of(self, index: int) -> str:
        """The name of a sample."""
        return self._images.name_of(int(self._indices[index]))
