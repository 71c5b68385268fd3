"""Oxford Flowers-102: one folder of images, and MATLAB files with their labels and splits.

Nilsback and Zisserman, "Automated Flower Classification over a Large Number of Classes", ICVGIP 2008. The publisher's
``trnid`` and ``valid`` are train and val, 10 images of each class, and ``tstid`` is test.
"""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.matlab import read_matlab
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError, problem

_IMAGES, _LABELS, _SPLITS = "102flowers.tgz", "imagelabels.mat", "setid.mat"


def _read(sources: Sources) -> Content:
    root = folder_holding(sources.folder(_IMAGES), "jpg", "jpg/image_00001.jpg …")
    (labels,) = read_matlab(sources.file(_LABELS), "labels")
    train, val, test = read_matlab(sources.file(_SPLITS), "trnid", "valid", "tstid")
    numbers = np.concatenate([train, val, test]).astype(np.int64)
    if numbers.min() < 1 or numbers.max() > len(labels) or len(set(numbers.tolist())) < len(numbers):
        found = f"{len(numbers)} numbers from {numbers.min()} to {numbers.max()}"
        allowed = f"each image in one split, numbers from 1 to {len(labels)}, as many as {_LABELS} has"
        raise DataError(problem(str(sources.archives / _SPLITS), found=found, allowed=allowed))

    def split(numbers: np.ndarray) -> DatasetSplit:
        images = [root / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
        return DatasetSplit(images, labels[numbers.astype(np.int64) - 1].astype(np.int64) - 1)

    return Content(
        trainval=split(np.concatenate([train, val])),
        test=split(test),
        classes=[str(number + 1) for number in range(int(labels.max()))],
        validation=np.arange(len(train), len(train) + len(val)),
    )


FLOWERS102 = Recipe(
    title="Oxford Flowers-102",
    archives={
        _IMAGES: "52808999861908f626f3c1f4e79d11fa",
        _LABELS: "e0620be6f572b9609742df49c70aed4d",
        _SPLITS: "a5357ecc9cb78c4bef273ce3793fc85c",
    },
    read=_read,
    num_classes=102,
    num_images={"trainval": 2040, "test": 6149},
)
