"""iNaturalist 2018 and 2019: one archive of images, and JSON files in the format of COCO.

Van Horn et al., "The iNaturalist Species Classification and Detection Dataset", CVPR 2018. The labels of the test split
are not published: the validation split is scored. The taxonomy of 2018 is in the list of categories that the publisher
released after the competition, in which names are no longer obfuscated.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.datasets.archives import Sources, folder_holding
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_json

#: From coarse to fine. The last one is called "name" in the files.
LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")


def _read(year: int, sources: Sources) -> Content:
    names = [f"train{year}", f"val{year}"]
    trainval, test = (_json(sources, name, "images", "annotations", "categories") for name in names)
    (place, categories) = sources.archives / f"train{year}.json.tar.gz", trainval["categories"]
    if year == 2018:
        place, categories = sources.archives / "categories.json.tar.gz", _json(sources, "categories")
    try:
        by_number = {category["id"]: category for category in categories}
        if sorted(by_number) != list(range(len(categories))):
            raise DataError(f"{place}: found {len(categories)} categories; expected: the ids 0, 1, 2, …, each once.")
        ordered = [by_number[number] for number in range(len(categories))]
        classes = [category["name"] for category in ordered]
    except (KeyError, TypeError) as error:
        raise DataError(f"{place}: found a category without {error}; expected: id and name.") from None
    try:
        first = str(trainval["images"][0]["file_name"]) if trainval["images"] else ""
    except (KeyError, TypeError) as error:
        raise DataError(f"{names[0]}.json: found a first image without {error}; expected: file_name.") from None
    archive = f"train_val{year}.tar.gz"
    root = folder_holding(sources.folder(archive), first, f"{archive} with the images of train{year}.json")
    return Content(
        trainval=_split(root, trainval, len(classes), f"train{year}.json"),
        test=_split(root, test, len(classes), f"val{year}.json"),
        classes=classes,
        levels=LEVELS if year == 2018 else (),
        taxonomy=[_lineage(category, place) for category in ordered] if year == 2018 else (),
    )


def _json(sources: Sources, name: str, *keys: str) -> Any:
    file = f"{name}.json"
    path = folder_holding(sources.folder(f"{file}.tar.gz"), file, file) / file
    try:
        content = load_json(path)
    except (OSError, UnsafeFileError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from None
    if keys and (not isinstance(content, dict) or not set(keys) <= content.keys()):
        raise DataError(f"{path}: expected an object with {', '.join(keys)}, the format of the publisher.")
    if not keys and not isinstance(content, list):
        raise DataError(f"{path}: expected a list of categories, each with {', '.join(LEVELS[:-1])} and name.")
    return content


def _lineage(category: dict[str, Any], path: Path) -> list[str]:
    lineage = [category.get("name" if level == "species" else level) for level in LEVELS]
    lacking = [level for level, name in zip(LEVELS, lineage, strict=True) if not name]
    if lacking:
        raise DataError(
            f"{path}: found category {category['id']} without {', '.join(lacking)}; expected: a taxonomy with "
            f"the levels {', '.join(LEVELS[:-1])} and name. The obfuscated list of the competition has none."
        )
    return [str(name) for name in lineage]


def _split(root: Path, content: dict[str, Any], num_classes: int, file: str) -> DatasetSplit:
    try:
        labels = {note["image_id"]: int(note["category_id"]) for note in content["annotations"]}
        images = [root / image["file_name"] for image in content["images"]]
        numbers = np.array([labels[image["id"]] for image in content["images"]], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{file}: found an image or annotation without {error}; expected: one for each image."
        ) from None
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < num_classes:
        raise DataError(f"{file}: found category {numbers.max()}; expected: 0 to {num_classes - 1}.")
    return DatasetSplit(images, numbers)


INATURALIST2018 = Recipe(
    title="iNaturalist 2018",
    archives={
        "train_val2018.tar.gz": "b1c6952ce38f31868cc50ea72d066cc3",
        "train2018.json.tar.gz": "bfa29d89d629cbf04d826a720c0a68b0",
        "val2018.json.tar.gz": "f2ed8bfe3e9901cdefceb4e53cd3775d",
        "categories.json.tar.gz": "",
    },
    read=functools.partial(_read, 2018),
    num_classes=8142,
    num_images={"trainval": 437_513, "test": 24_426},
)

INATURALIST2019 = Recipe(
    title="iNaturalist 2019",
    archives={
        "train_val2019.tar.gz": "c60a6e2962c9b8ccbd458d12c8582644",
        "train2019.json.tar.gz": "b06a6683537867c0d5c7a45f407a306d",
        "val2019.json.tar.gz": "5cc5509b0fe495f1c8c1362612448497",
    },
    read=functools.partial(_read, 2019),
    num_classes=1010,
    num_images={"trainval": 265_213, "test": 3030},
)
