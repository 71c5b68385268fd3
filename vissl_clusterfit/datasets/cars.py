"""Stanford Cars: one folder of images, and a MATLAB file with class and split of each.

Krause, Stark, Deng and Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 3dRR 2013. These are the
"updated" files of the publisher, which have all images in one archive, with the labels of the test split.
"""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.matlab import column, read_matlab
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError, problem

_IMAGES, _ANNOTATIONS = "car_ims.tgz", "cars_annos.mat"


def _read(sources: Sources) -> Content:
    path = sources.file(_ANNOTATIONS)
    records, names = read_matlab(path, "annotations", "class_names")
    files = [str(name) for name in column(path, records, "relative_im_path")]
    labels = np.array(column(path, records, "class"), dtype=np.int64) - 1
    is_test = np.array(column(path, records, "test"), dtype=bool)
    if not 0 <= labels.min() <= labels.max() < len(names):
        found = f"classes {labels.min() + 1} to {labels.max() + 1}"
        raise DataError(problem(str(path), found=found, allowed=f"1 to {len(names)}, the names in class_names"))
    root = folder_holding(sources.folder(_IMAGES), files[0].partition("/")[0], "car_ims/000001.jpg …")

    def split(chosen: np.ndarray) -> DatasetSplit:
        samples = np.flatnonzero(chosen)
        return DatasetSplit([root / files[sample] for sample in samples], labels[samples])

    return Content(trainval=split(~is_test), test=split(is_test), classes=[str(name) for name in names])


STANFORD_CARS = Recipe(
    title="Stanford Cars",
    archives={_IMAGES: "", _ANNOTATIONS: ""},
    read=_read,
    num_classes=196,
    num_images={"trainval": 8144, "test": 8041},
)
