"""CIFAR-100: one archive with a pickle for each split, whose rows become PNG files.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The pickles hold arrays, lists and texts; one
that asks for anything else is refused before it is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_plain_pickle

_ARCHIVE = "cifar-100-python.tar.gz"
_ROW_BYTES = 3 * 32 * 32


def _read(sources: Sources) -> Content:
    root = folder_holding(sources.folder(_ARCHIVE), "meta", "cifar-100-python with train, test and meta")
    meta = _load(root / "meta", "fine_label_names", "coarse_label_names")
    train, test = (
        _load(root / split, "data", "fine_labels", "coarse_labels", "filenames") for split in ("train", "test")
    )
    fine, coarse = meta["fine_label_names"], meta["coarse_label_names"]
    above = dict(zip(train["fine_labels"], train["coarse_labels"], strict=True))
    return Content(
        trainval=_split(root, "train", train, len(fine)),
        test=_split(root, "test", test, len(fine)),
        classes=fine,
        levels=("superclass", "class"),
        taxonomy=[[coarse[above[label]], name] for label, name in enumerate(fine) if label in above],
    )


def _load(path: Path, *keys: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = load_plain_pickle(file)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected in {_ARCHIVE}: train, test and meta.") from None
    except (OSError, UnsafeFileError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking:
        raise DataError(f"{path}: found no {', '.join(lacking)}; expected: a dictionary with {', '.join(keys)}.")
    return found


def _split(root: Path, name: str, rows: dict[str, Any], num_classes: int) -> DatasetSplit:
    data, labels = np.asarray(rows["data"]), np.asarray(rows["fine_labels"], dtype=np.int64)
    if data.dtype != np.uint8 or data.shape != (len(labels), _ROW_BYTES):
        allowed = f"bytes of shape ({len(labels)}, {_ROW_BYTES})"
        raise DataError(problem(f"{root / name}: data", found=f"{data.dtype} of shape {data.shape}", allowed=allowed))
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        found = f"{labels.min()} to {labels.max()}"
        raise DataError(problem(f"{root / name}: fine_labels", found=found, allowed=f"0 to {num_classes - 1}"))
    images = [root / "images" / name / f"{number:05d}.png" for number in range(len(labels))]
    for path, row in zip(images, data, strict=True):
        if not path.is_file():
            picture = Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0))
            write_file(path, lambda file, picture=picture: picture.save(file, "PNG"), synced=False)  # type: ignore[misc]
    return DatasetSplit(images, labels)


CIFAR100 = Recipe(
    title="CIFAR-100",
    archives={_ARCHIVE: "eb9058c3a382ffc7106e4002c42a8d85"},
    read=_read,
    num_classes=100,
    num_images={"trainval": 50_000, "test": 10_000},
)
