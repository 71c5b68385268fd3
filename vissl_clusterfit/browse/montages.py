"""Small pictures of the samples that a page shows, as data in the page or files beside it; each is read once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from vissl_clusterfit.browse.pictures import Pictures, full_picture, thumbnail
from vissl_clusterfit.browse.text import shown

_HEIGHT = 88


@dataclass(frozen=True)
class Shown:
    """One sample on a page.

    Attributes:
        index: its number.
        name: or its number, where names are not kept.
        data: a small JPEG as a ``data:`` URI; "" where there is none.
        width, height: of it, in pixels.
        full: the full picture, relative to the page; "" where there is none.
        problem: why there is no picture; "" where there is one, or none was looked for.
    """

    index: int
    name: str
    data: str = ""
    width: int = 0
    height: int = 0
    full: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Montages:
    """Gives samples as a page shows them.

    Args:
        pictures: of the samples; None to show names alone.
        names: of the samples, or None.
        save: writes a full picture under a name and returns the link to it; None to write none.
    """

    pictures: Pictures | None
    names: list[str] | None
    save: Callable[[str, bytes], str] | None = None
    _known: dict[int, Shown] = field(default_factory=dict)

    def of(self, indices: Iterable[int] | np.ndarray) -> list[Shown]:
        """Samples by their numbers."""
        return [self._sample(int(index)) for index in indices]

    def name_of(self, index: int) -> str:
        """The name of a sample, or its number where names are not kept."""
        return shown(self.names[index]) if self.names is not None and index < len(self.names) else f"sample {index}"

    def _sample(self, index: int) -> Shown:
        if index not in self._known:
            self._known[index] = self._read(index)
        return self._known[index]

    def _read(self, index: int) -> Shown:
        name = self.name_of(index)
        if self.pictures is None:
            return Shown(index, name)
        try:
            image = self.pictures.read(index)
            small, (width, height) = thumbnail(image, _HEIGHT)
            # Its number names the file: a sample's name may be any text.
            full = self.save(f"{index}.jpg", full_picture(image)) if self.save else ""
        except Exception as error:  # damaged files make decoders raise nearly anything
            return Shown(index, name, problem=shown(f"{type(error).__name__}: {error}"))
        data = "data:image/jpeg;base64," + base64.b64encode(small).decode("ascii")
        return Shown(index, name, data, width, height, full)

    @property
    def num_missing(self) -> int:
        """How many of the pictures that were looked for could not be read."""
        return sum(bool(sample.problem) for sample in self._known.values())

    @property
    def num_read(self) -> int:
        """How many were read."""
        return sum(bool(sample.data) for sample in self._known.values())
