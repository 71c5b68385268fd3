"""What every collection of images gives: names that stay, pictures by number, what shows a change, labels."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from vissl_clusterfit.features.sample_list import names_and_sizes
from vissl_clusterfit.images.decode import as_rgb

#: Endings of files that are taken for images, wherever they lie; Pillow reads them.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
    *(".pnm", ".jp2", ".avif", ".tga"),
)
_SHOWN = 3
_UPRIGHT = ",upright"


class Images(ABC):
    """Images in a fixed order. Processes may be forked from one that has opened them, or be sent them (spawn).

    Args:
        place: where they lie.
        names: of the samples: the same wherever the collection lies.
        exif: turn images as their EXIF data say.

    Attributes:
        labels: of the samples, if they came with any: int64 (N,) or (N, L), or texts (N,).
    """

    #: What it is, for messages.
    kind: ClassVar[str]

    def __init__(self, place: str, names: Sequence[str], *, exif: bool) -> None:
        self.place, self.names, self.exif = place, names, exif
        self.labels: np.ndarray | None = None
        self._ignored = shared_marks(0 if exif else len(names))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        """The image at an index, in RGB.

        Raises:
            Exception: whatever a decoder raises where it is damaged.
        """
        with self._open(index) as image:
            rgb, ignored = as_rgb(image, exif=self.exif)
        if ignored:
            self._ignored[index] = 1
        return rgb

    @abstractmethod
    def _open(self, index: int) -> Image.Image:
        """The image at an index as Pillow opens it."""

    @abstractmethod
    def _marks(self) -> Iterator[str]:
        """What shows that a sample is another one under the same name: its size or hash, without blanks."""

    def where(self, index: int) -> str:
        """Where a sample lies, for messages; the path of its file, if it is one."""
        return f"{self.place}: {self.names[index]}"

    def identities(self) -> Iterator[str]:
        """The name of each sample, a blank, and what shows a change: what the sample list is made of.

        That an image is turned by its EXIF data is part of it. Without this, they are those of a ``disk_folder``.
        """
        ending = _UPRIGHT if self.exif else ""
        for name, mark in zip(self.names, self._marks(), strict=True):
            yield f"{name} {mark}{ending}"

    @property
    def num_ignored_orientations(self) -> int:
        """How many of the images that were read, by any process, have an EXIF orientation that was ignored."""
        return int(self._ignored.sum())


def shared_marks(num_samples: int) -> torch.Tensor:
    """A mark for each sample, uint8 (N,), of zeros, that processes which read share; one that is set twice is one."""
    marks = torch.zeros(num_samples, dtype=torch.uint8)
    with contextlib.suppress(RuntimeError):  # no shared memory: those of other processes are not counted
        marks.share_memory_()
    return marks


def sizes_of(paths: Sequence[str]) -> np.ndarray:
    """The sizes of files in bytes, int64 (N,); -1 for one that is not there."""
    named = names_and_sizes(paths, "/")
    return np.fromiter((int(name.rpartition(" ")[2]) for name in named), dtype=np.int64, count=len(paths))


def some(names: Sequence[str]) -> str:
    """The first few of many, for messages."""
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its ending, unless it is hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.rpartition("/")[2].startswith(".")
