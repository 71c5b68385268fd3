"""Food-101: one archive with images by class, and lists of the splits.

Bossard, Guillaumin and Van Gool, "Food-101 -- Mining Discriminative Components with Random Forests", ECCV 2014: 750 and
250 images of each class.
"""

from __future__ import annotations

from pathlib import Path

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.lists import read_lines
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe, class_numbers

_ARCHIVE = "food-101.tar.gz"


def _read(sources: Sources) -> Content:
    root = folder_holding(sources.folder(_ARCHIVE), "meta/train.txt", "food-101/images and food-101/meta")
    classes = read_lines(root / "meta/classes.txt")
    trainval, test = (_split(root, root / "meta" / f"{name}.txt", classes) for name in ("train", "test"))
    return Content(trainval=trainval, test=test, classes=classes)


def _split(root: Path, file: Path, classes: list[str]) -> DatasetSplit:
    lines = read_lines(file)
    labels = class_numbers([line.partition("/")[0] for line in lines], classes, str(file))
    return DatasetSplit([root / "images" / f"{line}.jpg" for line in lines], labels)


FOOD101 = Recipe(
    title="Food-101",
    archives={_ARCHIVE: "85eeb15f3717b99a5da872d97d918f87"},
    read=_read,
    num_classes=101,
    num_images={"trainval": 75_750, "test": 25_250},
)
