"""ImageNet-1k (ILSVRC 2012), and larger parts of ImageNet as one tar for each synset.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. Classes are numbered in the order of
their WordNet ids, as torchvision and VISSL have it. The validation split, whose labels are in the development kit, is
scored.

ImageNet-9k: the synsets that the paper took are not published, nor is a split. Which they are says a list of one's own;
50 images of each, as ImageNet-1k has them, at most a tenth where there are few, are drawn for the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.lists import is_number, read_lines
from vissl_clusterfit.datasets.matlab import column, read_matlab
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError

_TRAIN, _VAL, _KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
#: The list of the synsets of ImageNet-9k, beside their tars.
SYNSETS = "imagenet9k_synsets.txt"
_NUM_TEST = 50


def _read(sources: Sources) -> Content:
    data = folder_holding(sources.folder(_KIT), "data/meta.mat", "ILSVRC2012_devkit_t12/data/meta.mat") / "data"
    (synsets,) = read_matlab(data / "meta.mat", "synsets")
    ids, names, children = (
        column(data / "meta.mat", synsets, field) for field in ("ILSVRC2012_ID", "WNID", "num_children")
    )
    wnids = {int(number): str(name) for number, name, below in zip(ids, names, children, strict=True) if not below}
    classes = sorted(wnids.values())
    truth = read_lines(data / "ILSVRC2012_validation_ground_truth.txt")
    unknown = [line for line in truth if not is_number(line) or int(line) not in wnids]
    if unknown:
        raise DataError(f"{data}: found the class {unknown[0]} for a validation image; expected: ids in meta.mat.")
    val = sources.folder(_VAL)
    images = [val / f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(truth) + 1)]
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[wnids[int(line)]] for line in truth], dtype=np.int64)
    train = sources.folder(_TRAIN, of_tars=True)
    return Content(trainval=_of_folders(train, classes), test=DatasetSplit(images, labels), classes=classes)


def _of_folders(root: Path, classes: list[str]) -> DatasetSplit:
    images = [sorted(path for path in (root / name).glob("**/*") if path.is_file()) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in images])
    return DatasetSplit([path for files in images for path in files], labels)


def _read_9k(sources: Sources) -> Content:
    classes = sorted(read_lines(sources.file(SYNSETS)))
    if len(set(classes)) < len(classes) or any(Path(name).name != name for name in classes):
        raise DataError(f"{sources.archives / SYNSETS}: expected one WordNet id a line, each once, as n01440764.")
    missing = [name for name in classes if not (sources.archives / f"{name}.tar").is_file()]
    if missing:
        raise DataError(
            f"{sources.archives}: {len(missing)} tars missing, {missing[0]}.tar first; expected there: one for each "
            f"of the {len(classes)} synsets in {SYNSETS}."
        )
    folders = [sources.folder(f"{name}.tar") for name in classes]
    root = folders[0].parent
    every = _of_folders(root, classes)
    rng, is_test = np.random.default_rng(0), np.zeros(len(every.images), dtype=bool)
    for number in range(len(classes)):
        samples = np.flatnonzero(every.labels == number)
        # Of a class with two images or more, at least one is scored and one is left to train on.
        count = min(_NUM_TEST, max(len(samples) // 10, 1)) if len(samples) > 1 else 0
        is_test[rng.permutation(samples)[:count]] = True
    trainval, test = (
        DatasetSplit([every.images[sample] for sample in samples.tolist()], every.labels[samples])
        for samples in (np.flatnonzero(~is_test), np.flatnonzero(is_test))
    )
    return Content(trainval=trainval, test=test, classes=classes)


IMAGENET1K = Recipe(
    title="ImageNet-1k",
    archives={
        _TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
        _VAL: "29b22e2961454d5413ddabcf34fc5622",
        _KIT: "fa75699e90414af021442c21a62c3abf",
    },
    read=_read,
    num_classes=1000,
    num_images={"trainval": 1_281_167, "test": 50_000},
)

IMAGENET9K = Recipe(title="ImageNet-9k", archives={SYNSETS: ""}, read=_read_9k)
