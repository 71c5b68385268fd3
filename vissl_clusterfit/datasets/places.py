"""Places205 and Places365 (standard), as small images: archives of images, and lists of their classes.

Zhou et al., "Learning Deep Features for Scene Recognition using Places Database", NeurIPS 2014, and "Places: A 10
million Image Database for Scene Recognition", TPAMI 2017. The labels of the test splits are not published: the
validation splits are scored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.lists import read_numbered, require_below
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe

_IMAGES205, _LISTS205 = "imagesPlaces205_resize.tar.gz", "trainvalsplit_places205.tar.gz"
_TRAIN365, _VAL365, _LISTS365 = "train_256_places365standard.tar", "val_256.tar", "filelist_places365-standard.tar"


def _read205(sources: Sources) -> Content:
    lists = folder_holding(
        sources.folder(_LISTS205), "train_places205.csv", "train_places205.csv and val_places205.csv"
    )
    images = sources.folder(_IMAGES205)
    train, test = (_entries(lists / f"{name}_places205.csv") for name in ("train", "val"))
    root = folder_holding(images, train[0][0], f"{_IMAGES205} with the images of train_places205.csv")
    # The lists have no names of classes but the folders: /a/abbey/… is an abbey.
    names = dict(zip(train[1].tolist(), (str(Path(file).parent) for file in train[0]), strict=True))
    classes = [names.get(number, f"class {number}") for number in range(int(train[1].max()) + 1)]
    require_below(test[1], len(classes), lists / "val_places205.csv")
    return Content(trainval=_split(root, *train), test=_split(root, *test), classes=classes)


def _read365(sources: Sources) -> Content:
    categories = "categories_places365.txt"
    lists = folder_holding(sources.folder(_LISTS365), categories, f"{categories} and the lists of the splits")
    names, numbers = read_numbered(lists / categories)
    require_below(numbers, len(names), lists / categories)
    classes = [names[position].strip("/") for position in np.argsort(numbers, kind="stable")]
    splits = []
    for archive, file in ((_TRAIN365, "places365_train_standard.txt"), (_VAL365, "places365_val.txt")):
        entries = _entries(lists / file)
        require_below(entries[1], len(classes), lists / file)
        root = folder_holding(sources.folder(archive), entries[0][0], f"{archive} with the images of {file}")
        splits.append(_split(root, *entries))
    return Content(trainval=splits[0], test=splits[1], classes=classes)


def _entries(path: Path) -> tuple[list[str], np.ndarray]:
    files, labels = read_numbered(path)
    return [file.lstrip("/") for file in files], labels


def _split(root: Path, files: list[str], labels: np.ndarray) -> DatasetSplit:
    return DatasetSplit([root / file for file in files], labels)


PLACES205 = Recipe(
    title="Places205",
    archives={_IMAGES205: "", _LISTS205: ""},
    read=_read205,
    num_classes=205,
    num_images={"trainval": 2_448_873, "test": 20_500},
)

PLACES365 = Recipe(
    title="Places365",
    archives={
        _TRAIN365: "53ca1c756c3d1e7809517cc47c5561c5",
        _VAL365: "e27b17d8d44f4af9a78502beb927f808",
        _LISTS365: "35a0585fee1fa656440f3ab298f8479c",
    },
    read=_read365,
    num_classes=365,
    num_images={"trainval": 1_803_460, "test": 36_500},
)
