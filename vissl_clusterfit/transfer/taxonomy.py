"""A taxonomy over classes (for iNaturalist: kingdom … species), and nearest neighbours scored at each of its levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_json
from vissl_clusterfit.transfer.checks import validate_labels
from vissl_clusterfit.transfer.knn import KnnSettings, vote
from vissl_clusterfit.transfer.neighbors import nearest_neighbors
from vissl_clusterfit.transfer.rows import Rows

_LAYOUT = '{"levels": [coarsest, …, finest], "classes": [[a name for each level], … one per class]}'


@dataclass(frozen=True)
class Taxonomy:
    """Where each class stands.

    Attributes:
        levels: From the coarsest to the finest.
        classes: For each class, in the order of the labels, its name at every level.
    """

    levels: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]

    @classmethod
    def load(cls, path: Path) -> Taxonomy:
        """Reads a JSON file ``{"levels": [...], "classes": [[...], ...]}``.

        Raises:
            DataError: it is missing, or not such a file.
        """
        try:
            content = load_json(path)
        except FileNotFoundError:
            raise DataError(f"{path} is missing: the taxonomy, {_LAYOUT}.") from None
        except (OSError, UnsafeFileError) as error:
            raise DataError(f"{path} cannot be read as JSON: {error}. Expected: {_LAYOUT}.") from None
        levels, classes = (content.get(key) if isinstance(content, dict) else None for key in ("levels", "classes"))
        if not _are_names(levels) or len(set(levels)) < len(levels):
            raise DataError(problem(f"{path}: levels", found=_short(levels), allowed="a list of different names"))
        if not isinstance(classes, list) or not classes:
            raise DataError(problem(f"{path}: classes", found=_short(classes), allowed="a list with one entry or more"))
        for number, names in enumerate(classes):
            if not _are_names(names) or len(names) != len(levels):
                allowed = f"{len(levels)} names, one for each of {', '.join(levels)}"
                raise DataError(problem(f"{path}: class {number}", found=_short(names), allowed=allowed))
        return cls(tuple(levels), tuple(map(tuple, classes)))

    def require(self, levels: Sequence[str], name: str) -> None:
        """Refuses levels that it lacks; ``name``: of the setting that asks for them.

        Raises:
            ConfigError: naming them.
        """
        unknown = [level for level in levels if level not in self.levels]
        if unknown:
            raise ConfigError(problem(name, found=", ".join(unknown), allowed=", ".join(self.levels)))

    def labels_at(self, level: str) -> np.ndarray:
        """The label of each class at a level, ``(num_classes,)`` int64, in the order in which they first come.

        Two classes share it when they share all names from the coarsest level down to this one: a genus of plants and
        one of animals that have the same name stay apart.
        """
        depth = self.levels.index(level) + 1
        numbers: dict[tuple[str, ...], int] = {}
        return np.array([numbers.setdefault(names[:depth], len(numbers)) for names in self.classes], dtype=np.int64)


def taxonomy_knn_accuracies(
    queries: Rows,
    query_labels: np.ndarray | Tensor,
    gallery: Rows,
    gallery_labels: np.ndarray | Tensor,
    taxonomy: Taxonomy,
    levels: Sequence[str],
    settings: KnnSettings,
    *,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Top-1 accuracy of nearest neighbours at each level, between 0 and 1.

    The neighbours are found once, whatever the level. At each they vote for their group there, so that two species of
    the true kingdom add up; the answer at a level is not read off the answer at a finer one.

    Args:
        queries: ``(num_queries, dim)``.
        query_labels: ``(num_queries,)`` whole numbers from 0, of classes.
        gallery: ``(num_gallery, dim)``.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0, of classes.
        taxonomy: With an entry for every class.
        levels: That it has.
        settings: What defines the scores.
        device: Where to compute.

    Raises:
        ConfigError: as :func:`vissl_clusterfit.transfer.knn.knn_predict`, or a level that the taxonomy lacks.
        DataError: features or labels that cannot be used, or a label beyond the classes of the taxonomy.
    """
    taxonomy.require(levels, "levels")
    wanted = _known(query_labels, len(queries), "query_labels", taxonomy)
    present = _known(gallery_labels, len(gallery), "gallery_labels", taxonomy)
    groups = {level: torch.from_numpy(taxonomy.labels_at(level)) for level in levels}
    right, start = dict.fromkeys(levels, 0), 0
    for cosines, indices in nearest_neighbors(
        queries, gallery, settings.num_neighbors, similarity=settings.similarity, device=device
    ):
        classes_QK, expected_Q = present[indices.cpu()], wanted[start : start + len(indices)]
        start += len(indices)
        for level, group in groups.items():
            right[level] += int((vote(cosines.cpu(), group[classes_QK], settings) == group[expected_Q]).sum())
    return {level: count / len(queries) for level, count in right.items()}


def _known(labels: np.ndarray | Tensor, count: int, name: str, taxonomy: Taxonomy) -> Tensor:
    checked = validate_labels(labels, count, name)
    if checked.max() >= len(taxonomy.classes):
        found = f"label {checked.max()}, and a taxonomy of {len(taxonomy.classes)} classes"
        raise DataError(problem(name, found=found, allowed="a taxonomy with an entry for every class"))
    return torch.from_numpy(checked)


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
