"""``PseudoLabels``: the cluster of every sample, addressed by data-set index, as an artefact on disk."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit import artifacts
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.sources import StoreSource
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore

logger = logging.getLogger(__name__)

KIND = "pseudo_labels"
UNLABELLED = -1
_LABELS, _DISTANCES, _SIZES = "labels.npy", "distances.npy", "sizes.npy"
_MAX_LISTED = 1000


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
        return artifacts.read_array(self.folder / _LABELS, mmap=True)

    @cached_property
    def distances(self) -> np.ndarray:
        """As ``labels``, float32: squared L2 distances to the centroid; -1 where there is no label."""
        return artifacts.read_array(self.folder / _DISTANCES, mmap=True)

    @cached_property
    def cluster_sizes(self) -> np.ndarray:
        """(K,) int64, or (L, largest K): how many samples carry each label."""
        return artifacts.read_array(self.folder / _SIZES)

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
            labels._check()
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / artifacts.MANIFEST_NAME} is damaged: {error!r}.") from None
        return labels

    def _check(self) -> None:
        columns = len(self.num_clusters)
        # A file of L columns is told from one of a single column by its own shape.
        one = self.labels.ndim == 1
        shape = (self.num_samples,) if one else (self.num_samples, columns)
        sizes_shape = (max(self.num_clusters),) if one else (columns, max(self.num_clusters))
        for name, array, expected, dtype in (
            (_LABELS, self.labels, shape, np.int64),
            (_DISTANCES, self.distances, shape, np.float32),
            (_SIZES, self.cluster_sizes, sizes_shape, np.int64),
        ):
            if array.shape != expected or array.dtype != dtype:
                raise ArtifactError(
                    f"{self.folder / name} must hold {expected} of {np.dtype(dtype)}, as its manifest says; "
                    f"found {array.shape} of {array.dtype}. {_REMEDY}"
                )
        if one and columns != 1:
            raise ArtifactError(f"{self.folder}: one label per sample, but {columns} codebooks. {_REMEDY}")
        unlabelled = self.manifest["num_unlabelled"]
        if int(self.cluster_sizes.sum()) != (self.num_samples - unlabelled) * columns:
            raise ArtifactError(
                f"{self.folder}: {_SIZES} counts {int(self.cluster_sizes.sum())} labels, the manifest "
                f"{self.num_samples} samples of which {unlabelled} have none. {_REMEDY}"
            )


_REMEDY = "Delete the folder and label the samples again."


def label_inputs(feature_inputs: Mapping[str, Any], codebook_inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What labels are made from: what their features are, and what their codebook was made from."""
    return {"features": dict(feature_inputs), "codebook": dict(codebook_inputs)}


def label_store(store: FeatureStore, codebook: Codebook, device: str, folder: Path) -> PseudoLabels:
    """Gives every sample of a store the label of its nearest centroid, in memory that does not grow with N.

    Args:
        store: the features: those of the clustering, or of a held-out split.
        codebook: the centroids.
        device: "cpu" or "cuda".
        folder: of the labels.

    Raises:
        ArtifactError: the features do not have the codebook's dimension.
        DataError: a feature is NaN or infinite.
    """
    if store.dim != codebook.input_dim:
        raise ArtifactError(
            f"The codebook in {codebook.folder} labels features of dimension {codebook.input_dim}, found "
            f"{store.dim}. Extract them with the same teacher, layer and pooling."
        )
    sizes = np.zeros(codebook.num_clusters, dtype=np.int64)
    search = codebook.search(device)
    source = StoreSource(store)
    with (
        _array_in_the_making(folder / _LABELS, store.num_samples, np.int64) as labels_N,
        _array_in_the_making(folder / _DISTANCES, store.num_samples, np.float32) as distances_N,
    ):
        for start, rows in source.chunks():
            samples = source.sample_indices(np.arange(start, start + len(rows)))
            labels_n, distances_n = search(rows)
            labels_N[samples], distances_N[samples] = labels_n, distances_n
            sizes += np.bincount(labels_n, minlength=len(sizes))
    artifacts.write_array(folder / _SIZES, sizes)
    facts = _facts(store, sizes)
    facts |= {"features_hash": store.content_hash, "codebook_hash": codebook.content_hash}
    facts["sha256"] = {name: artifacts.file_sha256(folder / name) for name in (_LABELS, _DISTANCES, _SIZES)}
    artifacts.write_manifest(folder, KIND, label_inputs(store.inputs, codebook.manifest["inputs"]), facts)
    _report(facts)
    return PseudoLabels.open(folder)


@contextmanager
def _array_in_the_making(path: Path, length: int, dtype: type) -> Iterator[np.ndarray]:
    """A new array on disk, filled with -1; it is in its place only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(length,))
        array[:] = UNLABELLED
        yield array
        array.flush()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _facts(store: FeatureStore, sizes: np.ndarray) -> dict[str, Any]:
    num_labelled = int(sizes.sum())
    return {
        "num_samples": store.num_samples,
        "num_clusters": [len(sizes)],
        "num_empty_clusters": [int((sizes == 0).sum())],
        # The largest cluster over the mean one: 1 when all have the same size, K when one holds all samples.
        "imbalance": [float(sizes.max() * len(sizes) / num_labelled) if num_labelled else 0.0],
        "num_unlabelled": len(store.unreadable),
        "unlabelled": store.unreadable[:_MAX_LISTED].tolist(),
    }


def _report(facts: Mapping[str, Any]) -> None:
    logger.info(
        "%d of %d samples are labelled; %d could not be read and have no label.",
        facts["num_samples"] - facts["num_unlabelled"],
        facts["num_samples"],
        facts["num_unlabelled"],
    )
    logger.info(
        "The largest of %d clusters is %.1f times the mean one; %d are empty.",
        facts["num_clusters"][0],
        facts["imbalance"][0],
        facts["num_empty_clusters"][0],
    )
