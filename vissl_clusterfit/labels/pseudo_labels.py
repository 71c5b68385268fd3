"""``PseudoLabels``: the cluster of every sample, addressed by data-set index, as an artefact on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError, with_remedy
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.sample_names import copy_names, names_of, require_whole_names
from vissl_clusterfit.labels.files import (
    DISTANCES_FILE,
    LABELS_FILE,
    MARGINS_FILE,
    NEAREST_DISTANCES_FILE,
    NEAREST_FILE,
    SIZES_FILE,
)
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.manifest_values import (
    HASHES,
    NUMBER,
    OBJECT,
    TEXT,
    UNREADABLE,
    YES_OR_NO,
    Value,
    list_of,
    or_none,
    require_values,
    whole,
)
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.unchanged import require_unchanged

KIND = "pseudo_labels"
_REMEDY = "Delete the folder and label the samples again."


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """One label per sample and codebook: shape (N,) for one codebook, (N, L) for L of them.

    Attributes:
        folder: where they lie.
        manifest: its facts.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def num_samples(self) -> int:
        """N, with those that have no label."""
        return self.manifest["num_samples"]

    @property
    def num_clusters(self) -> tuple[int, ...]:
        """K of each codebook: one number for labels of shape (N,), L for (N, L)."""
        return tuple(self.manifest["num_clusters"])

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What they were made from: the inputs of their ``features`` and of their ``codebook``."""
        return self.manifest["inputs"]

    @property
    def codebook_hash(self) -> str:
        """The content hash of the codebook that gave them."""
        return self.manifest["codebook_hash"]

    @property
    def num_unlabelled(self) -> int:
        """Samples that could not be read, whose label is -1."""
        return self.manifest["num_unlabelled"]

    @property
    def imbalance(self) -> tuple[float, ...]:
        """Of each codebook: the largest cluster over the mean one; 1 when all are of the same size."""
        return tuple(self.manifest["imbalance"])

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) or (N, L) int64, memory-mapped; -1 for samples that could not be read."""
        return self._of_samples(LABELS_FILE, np.int64)

    @cached_property
    def distances(self) -> np.ndarray:
        """As ``labels``, float32: squared L2 distances to the centroid; -1 where there is no label."""
        return self._of_samples(DISTANCES_FILE, np.float32)

    @cached_property
    def margins(self) -> np.ndarray:
        """As ``distances``: how much farther, squared, the second nearest centroid is; infinite for K = 1."""
        return self._of_samples(MARGINS_FILE, np.float32)

    @property
    def top_clusters(self) -> int:
        """T: how many of the nearest clusters are kept for each sample."""
        return self.inputs.get("top_clusters", 1)

    @cached_property
    def nearest(self) -> np.ndarray:
        """(N, T) int64, the nearest clusters, nearest first; -1 for samples without a label. For T > 1 only."""
        return self._of_top(NEAREST_FILE, np.int64)

    @cached_property
    def nearest_distances(self) -> np.ndarray:
        """(N, T) float32: squared L2 distances to ``nearest``; -1 for samples without a label. For T > 1 only."""
        return self._of_top(NEAREST_DISTANCES_FILE, np.float32)

    @property
    def has_distances(self) -> bool:
        """Whether distances and margins are known; those of labels from elsewhere may not be, and are then 0."""
        return self.manifest.get("has_distances", True)

    @cached_property
    def names(self) -> list[str] | None:
        """The name of each sample, such as its file's path in the folder of the data; None where names are not kept.

        Raises:
            ArtifactError: they are damaged, or of other samples.
        """
        return names_of(self.folder)

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,), memory-mapped."""
        return self._array(SAMPLES_FILE, (self.num_samples,), np.uint64, hashed=True)

    def write_names(self, folder: Path) -> bool:
        """Writes the names into the folder of another artefact of the same samples; whether there are any."""
        return copy_names(self.folder, folder)

    def _of_top(self, name: str, dtype: type, *, hashed: bool = True) -> np.ndarray:
        if self.top_clusters == 1:
            raise ArtifactError(
                f"{self.folder} holds the nearest cluster of each sample alone. Label with "
                "config.CLUSTERFIT.TOP_CLUSTERS larger than 1, into another folder."
            )
        return self._array(name, (self.num_samples, self.top_clusters), dtype, hashed=hashed)

    @cached_property
    def cluster_sizes(self) -> np.ndarray:
        """(K,) int64, or (L, largest K): how many samples carry each label."""
        sizes, most = artifacts.read_array(self.folder / SIZES_FILE), max(self.num_clusters)
        expected = (most,) if sizes.ndim == 1 else (len(self.num_clusters), most)
        return self._array(SIZES_FILE, expected, np.int64, hashed=True)

    def _of_samples(self, name: str, dtype: type, *, hashed: bool = True) -> np.ndarray:
        # Labels of L codebooks are told from those of a single one by the shape of the sizes.
        columns = () if self.cluster_sizes.ndim == 1 else (len(self.num_clusters),)
        return self._array(name, (self.num_samples, *columns), dtype, hashed=hashed)

    def _array(self, name: str, shape: tuple[int, ...], dtype: type, *, hashed: bool) -> np.ndarray:
        """An array, mapped from disk; held against its hash, unless nothing but its shape is asked for."""
        with with_remedy(_REMEDY):
            if hashed:
                require_unchanged(self.folder / name, self.manifest.get("sha256", {}).get(name))
            return artifacts.read_array(self.folder / name, shape=shape, dtype=dtype, mmap=True)

    @classmethod
    def open(cls, folder: Path, expected_inputs: Mapping[str, Any] | None = None) -> PseudoLabels:
        """Opens labels; shapes and counts are checked, the labels themselves are not read.

        Args:
            folder: of the labels.
            expected_inputs: what they must have been made from, as :func:`label_inputs` gives it; not checked if None.

        Raises:
            ArtifactError: they are missing, not what the manifest says, or made from other inputs.
        """
        manifest = artifacts.read_manifest(folder, KIND)
        if expected_inputs is not None:
            artifacts.require_same_inputs(folder, manifest["inputs"], expected_inputs)
        require_label_values(folder, manifest)
        labels = cls(folder, manifest)
        try:
            with with_remedy(_REMEDY):
                labels._check()
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / artifacts.MANIFEST_NAME} is damaged: {error!r}. {_REMEDY}") from None
        return labels

    def _check(self) -> None:
        require_whole_names(self.folder, self.manifest)
        columns = len(self.num_clusters)
        if not as_remote(self.folder):  # where each would be fetched; there, they are checked when they are read
            arrays: dict[str, type] = {LABELS_FILE: np.int64, DISTANCES_FILE: np.float32}
            if MARGINS_FILE in self.manifest.get("sha256", ()):
                arrays[MARGINS_FILE] = np.float32
            for name, dtype in arrays.items():
                self._of_samples(name, dtype, hashed=False)
            if self.top_clusters > 1:
                self._of_top(NEAREST_FILE, np.int64, hashed=False)
                self._of_top(NEAREST_DISTANCES_FILE, np.float32, hashed=False)
            if SAMPLES_FILE in self.manifest.get("sha256", ()):
                self._array(SAMPLES_FILE, (self.num_samples,), np.uint64, hashed=False)
        if self.cluster_sizes.ndim == 1 and columns != 1:
            raise ArtifactError(f"{self.folder}: one label per sample, but {columns} codebooks. {_REMEDY}")
        unlabelled = self.manifest["num_unlabelled"]
        if int(self.cluster_sizes.sum()) != (self.num_samples - unlabelled) * columns:
            raise ArtifactError(
                f"{self.folder}: {SIZES_FILE} counts {int(self.cluster_sizes.sum())} labels, the manifest "
                f"{self.num_samples} samples of which {unlabelled} have none. {_REMEDY}"
            )


_VALUES: dict[str, Value] = {
    "num_samples": whole(),
    "num_clusters": list_of(whole(1), least=1),
    "num_unlabelled": whole(),
}
_MORE_VALUES: dict[str, Value] = {
    "sha256": HASHES,
    "imbalance": list_of(NUMBER),
    "num_empty_clusters": list_of(whole()),
    "num_unreadable": whole(),
    "num_too_far": whole(),
    "unreadable": UNREADABLE,
    "drift": NUMBER,
    "codebook_hash": TEXT,
    "features_hash": TEXT,
    "bounded": OBJECT,
    "imported": YES_OR_NO,
    "has_distances": YES_OR_NO,
}
_INPUTS: dict[str, Value] = {
    "top_clusters": whole(1),
    "max_distance": or_none(NUMBER),
    "max_cluster_size": NUMBER,
}


_BOUNDED: dict[str, Value] = {
    **dict.fromkeys(("max_cluster_size", "mean_distance", "mean_distance_unbounded", "mean_distance_at_least"), NUMBER),
    # Of older labels it may be any multiple of N; of no sample it is 0.
    "limit": Value("a whole number, 0 or more", lambda value: type(value) is int and value >= 0),
    **dict.fromkeys(("largest", "num_price_passes", "num_not_nearest", "num_moved", "num_settled_in_order"), whole()),
}


def require_label_values(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks types and ranges of what the manifest of labels says.

    Raises:
        ArtifactError: naming what is not allowed.
    """
    require_values(folder, manifest, _VALUES, _MORE_VALUES, _REMEDY)
    require_values(folder, manifest["inputs"], {}, _INPUTS, _REMEDY)
    require_values(folder, manifest.get("bounded", {}), {}, _BOUNDED, _REMEDY)


def label_inputs(
    feature_inputs: Mapping[str, Any],
    codebook_inputs: Mapping[str, Any],
    max_distance: float | None = None,
    top_clusters: int = 1,
    max_cluster_size: float = 0.0,
) -> dict[str, Any]:
    """What labels are made from: what their features are, what their codebook was made from, and how they are given."""
    inputs = {"features": dict(feature_inputs), "codebook": dict(codebook_inputs), "max_distance": max_distance}
    # What is not asked for is left out, as in labels that are older than it.
    if top_clusters > 1:
        inputs["top_clusters"] = top_clusters
    if max_cluster_size:
        inputs["max_cluster_size"] = max_cluster_size
    return inputs
