"""``PseudoLabels``: the cluster of every sample, addressed by data-set index, as an artefact on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.sources import chunk_rows
from vissl_clusterfit.errors import ArtifactError, ConfigError, problem, with_remedy
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.balanced import BoundedLabels
from vissl_clusterfit.labels.files import (
    DISTANCES_FILE,
    LABELS_FILE,
    MARGINS_FILE,
    NEAREST_DISTANCES_FILE,
    NEAREST_FILE,
    SIZES_FILE,
    LabelFiles,
)
from vissl_clusterfit.labels.label_rows import LabelRules, labels_of_rows, nearest_of_rows
from vissl_clusterfit.search.threads import in_turns
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import remove_leftovers
from vissl_clusterfit.storage.remote import as_remote

logger = logging.getLogger(__name__)

KIND = "pseudo_labels"
_PRICES_FILE = "prices.npy"


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


_REMEDY = "Delete the folder and label the samples again."


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


def label_store(
    store: FeatureStore,
    codebook: Codebook,
    device: str,
    folder: Path,
    *,
    max_distance: float | None = None,
    top_clusters: int = 1,
    max_cluster_size: float = 0.0,
) -> PseudoLabels:
    """Gives every sample of a store the label of its nearest centroid, in memory that does not grow with N.

    Labels are written in the order of the samples. Labelling that was stopped goes on where it was, at most a million
    samples back, and ends with the very labels that it would have had.

    Args:
        store: the features: those of the clustering, or of other data.
        codebook: the centroids.
        device: "cpu" or "cuda".
        folder: of the labels.
        max_distance: samples whose squared distance is larger stay without label; None labels all.
        top_clusters: T; with more than 1 the T nearest clusters are kept, too.
        max_cluster_size: how much larger than the mean size a cluster may be, at least 1, as ``labels/balanced.py``
            does it; 0 for no bound. Not together with ``max_distance``.

    Raises:
        ConfigError: T is larger than the number of clusters.
        ArtifactError: the features do not have the codebook's dimension.
        DataError: a feature is NaN or infinite.
    """
    if max_cluster_size and max_distance is not None:
        raise ValueError(
            "max_cluster_size bounds the clusters of labels that all samples have: leave max_distance out."
        )
    if store.dim != codebook.input_dim:
        raise ArtifactError(
            f"The codebook in {codebook.folder} labels features of dimension {codebook.input_dim}, found "
            f"{store.dim}. Extract them with the same teacher, layer and pooling."
        )
    if top_clusters > codebook.num_clusters:
        allowed = f"1 to {codebook.num_clusters}, the clusters of the codebook in {codebook.folder}"
        raise ConfigError(problem("config.CLUSTERFIT.TOP_CLUSTERS", found=top_clusters, allowed=allowed))
    inputs = label_inputs(store.inputs, codebook.manifest["inputs"], max_distance, top_clusters, max_cluster_size)
    run = artifacts.content_hash([inputs, store.content_hash, codebook.content_hash])
    search = codebook.search(device)
    artifacts.remove_manifest(folder)
    with LabelFiles(folder, store.num_samples, run, top_clusters) as files:
        bounded = None
        if max_cluster_size:
            bounded = BoundedLabels(store, codebook, device, max_cluster_size, folder / _PRICES_FILE, run)
        rules = LabelRules(codebook.num_clusters, max_distance, top_clusters, bounded)

        def label(start: int) -> Callable[[], None]:
            rows = store.read(start, min(start + chunk_rows(store.dim), store.num_samples))
            found = nearest_of_rows(rows, start, store.unreadable, search, rules)

            def keep() -> None:
                of_rows = labels_of_rows(found, rules)
                if start + len(rows) > files.num_done:
                    files.append(*of_rows)

            return keep

        # Where clusters are bounded, a label depends on those before it: what is written is gone through again.
        first = 0 if bounded else files.num_done
        in_turns(range(first, store.num_samples, chunk_rows(store.dim)), label, search.at_once)
        files.complete()
        sizes, num_far = files.count(codebook.num_clusters)
        artifacts.write_array(folder / SIZES_FILE, sizes)
        artifacts.write_array(folder / SAMPLES_FILE, artifacts.read_array(store.folder / SAMPLES_FILE, mmap=True))
        facts = _facts(store, sizes, num_far)
        if bounded is not None:
            facts["bounded"] = bounded.facts()
        facts |= {"features_hash": store.content_hash, "codebook_hash": codebook.content_hash}
        names = (*files.names, SIZES_FILE, SAMPLES_FILE)
        facts["sha256"] = {name: artifacts.file_sha256(folder / name) for name in names}
        files.require_own()  # what was counted and hashed
        artifacts.write_manifest(folder, KIND, inputs, facts)
    files.remove_progress()
    (folder / _PRICES_FILE).unlink(missing_ok=True)
    remove_leftovers(folder)
    _report(facts)
    return PseudoLabels.open(folder)


def _facts(store: FeatureStore, sizes: np.ndarray, num_far: int) -> dict[str, Any]:
    num_labelled = int(sizes.sum())
    return {
        "num_samples": store.num_samples,
        "num_clusters": [len(sizes)],
        "num_empty_clusters": [int((sizes == 0).sum())],
        # The largest cluster over the mean one: 1 when all have the same size, K when one holds all samples.
        "imbalance": [float(sizes.max() * len(sizes) / num_labelled) if num_labelled else 0.0],
        "num_unlabelled": len(store.unreadable) + num_far,
        "num_unreadable": len(store.unreadable),
        "unreadable": store.manifest["unreadable"],
        # Farther from every centroid than max_distance: data unlike those that were clustered.
        "num_too_far": num_far,
        "drift": num_far / max(1, store.num_samples - len(store.unreadable)),
    }


def _report(facts: Mapping[str, Any]) -> None:
    logger.info(
        "%d of %d samples are labelled; %d could not be read and %d are too far from every centroid (drift %.1f %%).",
        facts["num_samples"] - facts["num_unlabelled"],
        facts["num_samples"],
        facts["num_unreadable"],
        facts["num_too_far"],
        100 * facts["drift"],
    )
    logger.info(
        "The largest of %d clusters is %.1f times the mean one; %d are empty.",
        facts["num_clusters"][0],
        facts["imbalance"][0],
        facts["num_empty_clusters"][0],
    )
