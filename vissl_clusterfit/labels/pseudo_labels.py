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
from vissl_clusterfit.features.sample_names import copy_names, names_of
from vissl_clusterfit.labels.files import (
    DISTANCES_FILE,
    LABELS_FILE,
    MARGINS_FILE,
    NEAREST_DISTANCES_FILE,
    NEAREST_FILE,
    SIZES_FILE,
)
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.remote import as_remote

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
        return artifacts.read_array(self.folder / SAMPLES_FILE, mmap=True)

    def write_names(self, folder: Path) -> bool:
        """Writes the names into the folder of another artefact of the same samples; whether there are any."""
        return copy_names(self.folder, folder)

    def _of_top(self, name: str, dtype: type) -> np.ndarray:
        if self.top_clusters == 1:
            raise ArtifactError(
                f"{self.folder} holds the nearest cluster of each sample alone. Label with "
                "config.CLUSTERFIT.TOP_CLUSTERS larger than 1, into another folder."
            )
        array = artifacts.read_array(self.folder / name, mmap=True)
        return self._require(name, array, (self.num_samples, self.top_clusters), dtype)

    @cached_property
    def cluster_sizes(self) -> np.ndarray:
        """(K,) int64, or (L, largest K): how many samples carry each label."""
        sizes, most = artifacts.read_array(self.folder / SIZES_FILE), max(self.num_clusters)
        expected = (most,) if sizes.ndim == 1 else (len(self.num_clusters), most)
        return self._require(SIZES_FILE, sizes, expected, np.int64)

    def _of_samples(self, name: str, dtype: type) -> np.ndarray:
        # Labels of L codebooks are told from those of a single one by the shape of the sizes.
        columns = () if self.cluster_sizes.ndim == 1 else (len(self.num_clusters),)
        return self._require(
            name, artifacts.read_array(self.folder / name, mmap=True), (self.num_samples, *columns), dtype
        )

    def _require(self, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        if array.shape != shape or array.dtype != dtype:
            raise ArtifactError(
                f"{self.folder / name} must hold {shape} of {np.dtype(dtype)}, as its manifest says; "
                f"found {array.shape} of {array.dtype}. {_REMEDY}"
            )
        return array

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
        labels = cls(folder, manifest)
        try:
            with with_remedy(_REMEDY):
                labels._check()
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / artifacts.MANIFEST_NAME} is damaged: {error!r}. {_REMEDY}") from None
        return labels

    def _check(self) -> None:
        columns = len(self.num_clusters)
        if not as_remote(self.folder):  # where each would be fetched; there, they are checked when they are read
            _ = self.labels, self.distances
            if MARGINS_FILE in self.manifest.get("sha256", ()):
                _ = self.margins
            if self.top_clusters > 1:
                _ = self.nearest, self.nearest_distances
            if SAMPLES_FILE in self.manifest.get("sha256", ()):
                samples = artifacts.read_array(self.folder / SAMPLES_FILE, mmap=True)
                self._require(SAMPLES_FILE, samples, (self.num_samples,), np.uint64)
        if self.cluster_sizes.ndim == 1 and columns != 1:
            raise ArtifactError(f"{self.folder}: one label per sample, but {columns} codebooks. {_REMEDY}")
        unlabelled = self.manifest["num_unlabelled"]
        if int(self.cluster_sizes.sum()) != (self.num_samples - unlabelled) * columns:
            raise ArtifactError(
                f"{self.folder}: {SIZES_FILE} counts {int(self.cluster_sizes.sum())} labels, the manifest "
                f"{self.num_samples} samples of which {unlabelled} have none. {_REMEDY}"
            )


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
