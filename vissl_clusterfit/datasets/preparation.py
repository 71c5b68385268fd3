"""From archives to a prepared data set: what is the same for all of them.

A prepared data set is a folder with, for each split, ``<split>_images.npy`` (paths) and ``<split>_labels.npy``, which
are what VISSL's ``disk_filelist`` reads; ``classes.json``; ``taxonomy.json`` where there is one; and ``manifest.json``,
written last.

The splits: ``trainval`` is all that may be trained on, ``train`` and ``val`` are its two parts, ``test`` is scored. The
validation split is the publisher's where it has one beside a labelled test split. Else it is held out here: of each
class of n images round(n / 10) of them, at least one if there are two or more, drawn with a fixed seed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.datasets.archives import Sources
from vissl_clusterfit.datasets.recipe import Content, DatasetSplit, Recipe
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.storage.artifacts import (
    has_manifest,
    read_manifest,
    remove_manifest,
    write_array,
    write_json,
    write_manifest,
)

logger = logging.getLogger(__name__)

KIND = "data set"
_HELD_OUT_SHARE = 0.1


def prepare(name: str, recipe: Recipe, archives: Path, root: Path, *, subset: bool = False) -> dict[str, Any]:
    """Prepares one data set in ``root/name``, or finds it prepared from the same archives.

    Args:
        name: of the data set, and of its folder.
        recipe: of the data set.
        archives: the folder with the publisher's files.
        root: of all prepared data sets.
        subset: the archives are a part of what is published, so that counts and sums are not checked.

    Returns:
        The manifest.

    Raises:
        DataError: what is wrong with the archives; nothing but what was unpacked is left.
    """
    folder = root.absolute() / name
    sources = Sources(archives, folder / "unpacked", recipe.archives, check_sums=not subset)
    sizes = {file: (archives / file).stat().st_size for file in recipe.archives}
    inputs = {"data_set": name, "archives": sizes, "subset": subset, "folder": str(folder)}
    if has_manifest(folder):
        manifest = read_manifest(folder, KIND)
        if manifest["inputs"] == inputs:
            logger.info("%s is there already.", folder)
            return manifest
    content = recipe.read(sources)
    splits = _splits(content)
    for split, part in splits.items():
        _check(recipe, content, split, part, published=not subset)
    remove_manifest(folder)
    for split, part in splits.items():
        write_array(folder / f"{split}_images.npy", np.array([str(path) for path in part.images]))
        write_array(folder / f"{split}_labels.npy", part.labels)
    write_json(folder / "classes.json", list(content.classes))
    if content.levels:
        taxonomy = {"levels": list(content.levels), "classes": [list(names) for names in content.taxonomy]}
        write_json(folder / "taxonomy.json", taxonomy)
    facts = {
        "num_classes": len(content.classes),
        "num_images": {split: len(part.images) for split, part in splits.items()},
        "validation": "the publisher's" if content.validation is not None else "a tenth of each class, drawn",
        "levels": list(content.levels),
    }
    write_manifest(folder, KIND, inputs, facts)
    return read_manifest(folder, KIND)


def _splits(content: Content) -> dict[str, DatasetSplit]:
    trainval = content.trainval
    held_out = np.zeros(len(trainval.images), dtype=bool)
    held_out[held_out_samples(trainval.labels) if content.validation is None else content.validation] = True
    parts = {"train": np.flatnonzero(~held_out), "val": np.flatnonzero(held_out)}
    halves = {
        split: DatasetSplit([trainval.images[sample] for sample in samples.tolist()], trainval.labels[samples])
        for split, samples in parts.items()
    }
    return {"trainval": trainval, **halves, "test": content.test}


def held_out_samples(labels: np.ndarray) -> np.ndarray:
    """The samples of the validation split that is held out here, ascending; see the top of this module.

    Args:
        labels: ``(N,)`` int64.
    """
    rng = np.random.default_rng(0)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    drawn = []
    for group in groups:
        count = max(int(np.floor(_HELD_OUT_SHARE * len(group) + 0.5)), 1 if len(group) > 1 else 0)
        drawn.append(rng.permutation(group)[:count])
    return np.sort(np.concatenate(drawn))


def _check(recipe: Recipe, content: Content, split: str, part: DatasetSplit, *, published: bool) -> None:
    """Refuses a split that is not what was published, that lacks files, or has a class without images."""
    where = f"{recipe.title}, split {split}"
    expected, found = recipe.num_images.get(split), len(part.images)
    hint = "With archives of a part of it, add --subset."
    if published and recipe.num_classes not in (None, len(content.classes)):
        allowed = f"the {recipe.num_classes} that are published"
        raise DataError(problem(f"{recipe.title}, classes", found=len(content.classes), allowed=allowed, remedy=hint))
    if published and expected not in (None, found):
        allowed = f"the {expected} that are published"
        raise DataError(problem(f"{where}, images", found=found, allowed=allowed, remedy=hint))
    if split in ("trainval", "test"):
        missing = [path for path in part.images if not os.path.isfile(path)]  # which a name may be too long for
        if missing:
            allowed = "all that the lists of the publisher name"
            raise DataError(problem(where, found=f"{len(missing)} images missing, {missing[0]} first", allowed=allowed))
        present = (
            part.labels == 1 if part.labels.ndim == 2 else np.bincount(part.labels, minlength=len(content.classes))
        )
        empty = np.flatnonzero((present.sum(axis=0) if part.labels.ndim == 2 else present) == 0)
        if len(empty):
            names = ", ".join(str(content.classes[number]) for number in empty[:3])
            found_text = f"{len(empty)} classes without images, {names}{' …' if len(empty) > 3 else ''}"
            raise DataError(problem(where, found=found_text, allowed="at least one image of each class"))
