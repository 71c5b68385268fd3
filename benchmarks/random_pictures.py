"""A data set of random pixels in memory."""

from __future__ import annotations

import numpy as np
import torch
from training import PIXELS

from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.images.pixels import Finish


class Pictures(torch.utils.data.Dataset):
    """Random pixels in memory, the same few pictures again and again; finished here, or on the device."""

    def __init__(self, number: int, finish: Finish | None = None) -> None:
        self._number, self._finish = number, finish
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randint(256, (min(number, 64), PIXELS, PIXELS, 3), dtype=torch.uint8, generator=generator)
        self._pixels = pictures.permute(0, 3, 1, 2)  # channels last in memory, as those of pictures are

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        pixels = self._pixels[index % len(self._pixels)]
        return (self._finish(pixels) if self._finish else pixels), ""

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list."""
        return hash_samples(map(self.name_of, range(self._number)))

    def name_of(self, index: int) -> str:
        """The name of a picture."""
        return f"picture{index}"

    def unfinished(self) -> tuple[Pictures, Finish] | None:
        """The same as pixels, and what finishes them on a device."""
        return (Pictures(self._number), self._finish) if self._finish else None
