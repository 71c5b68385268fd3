"""What a data set is made of: its archives, its published counts, and how its layout is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vissl_clusterfit.datasets.archives import Sources
from vissl_clusterfit.errors import DataError


@dataclass(frozen=True)
class DatasetSplit:
    """Images of one split and their labels.

    Attributes:
        images: N files.
        labels: ``(N,)`` int64, one class each from 0; or ``(N, C)``, 1 present, 0 absent, -1 difficult.
    """

    images: Sequence[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class Content:
    """What a publisher's layout holds.

    Attributes:
        trainval: All images that may be trained on.
        test: Those that are scored. Where the publisher keeps the labels of the test split back, its validation split.
        classes: Their names; label i is the i-th.
        validation: Positions in ``trainval`` of the publisher's own validation split; None if it has none.
        levels: Of a taxonomy, from coarse to fine; empty if there is none.
        taxonomy: For each class its name at every level.
    """

    trainval: DatasetSplit
    test: DatasetSplit
    classes: Sequence[str]
    validation: np.ndarray | None = None
    levels: Sequence[str] = ()
    taxonomy: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Recipe:
    """One data set.

    Attributes:
        title: Its name in the documentation.
        archives: Names of the files that are needed, with the MD5 that their publisher or torchvision lists, or "".
        read: Gives the content of the archives.
        num_classes: As published; None if it was not published.
        num_images: Of "trainval" and "test", as published; nothing is checked where they were not.
    """

    title: str
    archives: Mapping[str, str]
    read: Callable[[Sources], Content]
    num_classes: int | None = None
    num_images: Mapping[str, int] = field(default_factory=dict)


def class_numbers(names: Sequence[str], classes: Sequence[str], where: str) -> np.ndarray:
    """The label of each name, int64.

    Raises:
        DataError: a name is none of the classes; ``where`` names the file that has it.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted({name for name in names if name not in numbers})
    if unknown:
        raise DataError(f"{where}: found the class {unknown[0]!r}; expected: one of {len(classes)} classes.")
    return np.array([numbers[name] for name in names], dtype=np.int64)
