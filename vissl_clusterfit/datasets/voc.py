"""PASCAL VOC 2007, classification: images, and one list for each class and split.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010. The lists have 1 for a class that is
present, -1 for one that is not, 0 for one that is difficult to see; the targets 1, 0 and -1, as VISSL's meters and SVMs
take them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.lists import read_lines
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError

_TRAINVAL, _TEST = "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"
_LISTS = "ImageSets/Main"
_TARGETS = {"1": 1, "-1": 0, "0": -1}


def _read(sources: Sources) -> Content:
    roots = {
        split: folder_holding(sources.folder(archive), _LISTS, f"VOCdevkit/VOC2007/{_LISTS}")
        for split, archive in (("trainval", _TRAINVAL), ("test", _TEST))
    }
    lists = roots["trainval"] / _LISTS
    classes = sorted(file.name.removesuffix("_trainval.txt") for file in lists.glob("*_trainval.txt"))
    if not classes:
        raise DataError(f"{lists}: found no list <class>_trainval.txt; expected: one for each class.")
    trainval, names = _split(roots["trainval"], "trainval", classes)
    validation = set(read_lines(lists / "val.txt"))
    return Content(
        trainval=trainval,
        test=_split(roots["test"], "test", classes)[0],
        classes=classes,
        validation=np.flatnonzero([name in validation for name in names]),
    )


def _split(root: Path, split: str, classes: list[str]) -> tuple[DatasetSplit, list[str]]:
    names = read_lines(root / _LISTS / f"{split}.txt")
    targets = np.zeros((len(names), len(classes)), dtype=np.int64)
    for number, name in enumerate(classes):
        path = root / _LISTS / f"{name}_{split}.txt"
        entries = dict(line.split(maxsplit=1) for line in read_lines(path) if " " in line)
        if entries.keys() != set(names) or not set(entries.values()) <= _TARGETS.keys():
            raise DataError(f"{path}: expected a line <image> <1, 0 or -1> for each image in {split}.txt.")
        targets[:, number] = [_TARGETS[entries[image]] for image in names]
    return DatasetSplit([root / "JPEGImages" / f"{name}.jpg" for name in names], targets), names


VOC2007 = Recipe(
    title="PASCAL VOC 2007",
    archives={_TRAINVAL: "c52e279531787c972589f7e41ab4ae64", _TEST: "b6e924de25625d8de591ea690078ad9f"},
    read=_read,
    num_classes=20,
    num_images={"trainval": 5011, "test": 4952},
)
