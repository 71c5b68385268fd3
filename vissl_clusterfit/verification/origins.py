"""Whether labels follow from the features and the codebook that they were made from: distances, counts, sums, costs.

Nothing is searched: each label's distance is computed again, which takes no longer than reading the features. Where the
clustering converged on these very samples, each centroid must be the mean of its samples, too. ``verify.py`` calls it.

Legend: N samples, n of a chunk, D dimensions, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.sources import chunk_rows
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.search.backends import TORCH

# What float32 leaves of a squared distance, and what a row's and a centroid's own rounding adds in units of its square.
_RELATIVE, _OF_SQUARES = 1e-4, 1e-6
# The sums of so many numbers are held against the centroids: half a gigabyte.
_MOST_SUMS = 1 << 26


def contradictions(folder: Path, features: Path, codebook: Path) -> Iterator[str]:
    """What labels say that their features and their codebook don't, one line each.

    Args:
        folder: of labels of one codebook.
        features: the store that they were made from.
        codebook: theirs.

    Raises:
        ArtifactError: one of the three is damaged.
    """
    labels, store, of = PseudoLabels.open(folder), FeatureStore.open(features), Codebook.open(codebook)
    if len(labels.num_clusters) != 1 or labels.num_samples != store.num_samples:
        return
    everyone = _labels_all(labels, of)
    sums = np.zeros(of.centroids.shape) if everyone and _is_settled(of) and of.centroids.size <= _MOST_SUMS else None
    num_wrong, total, number = 0, 0.0, 0
    for start in range(0, store.num_samples, chunk_rows(store.dim)):
        part = slice(start, min(start + chunk_rows(store.dim), store.num_samples))
        label = np.asarray(labels.labels[part])
        labelled = label >= 0
        rows = of.preprocessing.apply(store.read(part.start, part.stop))[labelled].astype(np.float64)
        label, told = label[labelled], labels.distances[part][labelled].astype(np.float64)
        centroids = of.centroids[label].astype(np.float64)
        exact = np.square(rows - centroids).sum(axis=1)
        slack = _RELATIVE * exact + _OF_SQUARES * (np.square(rows).sum(axis=1) + np.square(centroids).sum(axis=1))
        num_wrong += int((np.abs(told - exact) > slack).sum())
        total, number = total + float(told.sum()), number + len(label)
        if sums is not None:
            np.add.at(sums, label, rows)
    if num_wrong:
        yield f"{folder}: {num_wrong} distances are not those of the features in {features} to their centroids"
        return
    if everyone and not _costs_no_more(of, total / max(1, number)):
        yield (
            f"{codebook}: the objective of the last iteration is {of.manifest['objective'][-1]}, but its features are "
            f"{total / max(1, number)} from their centroids"
        )
    if sums is not None:
        yield from _wrong_means(of, labels, sums)


def _labels_all(labels: PseudoLabels, codebook: Codebook) -> bool:
    """Whether labels are the nearest clusters of the same samples that were clustered."""
    facts, inputs = labels.manifest, labels.inputs
    same = facts.get("features_hash") == codebook.manifest.get("features_hash")
    counted = labels.num_samples - labels.num_unlabelled == codebook.manifest["num_points"]
    return same and counted and inputs.get("max_distance") is None and "bounded" not in facts


def _is_settled(codebook: Codebook) -> bool:
    """Whether one more iteration would change nothing, and labels are exact."""
    manifest = codebook.manifest
    settled = not _has_levels(codebook) and manifest.get("converged") and manifest["cluster_backend"] == TORCH
    return bool(settled)


def _costs_no_more(codebook: Codebook, mean_distance: float) -> bool:
    """After the last update no feature may be farther, on the mean; where that iteration saw all, by squared L2."""
    manifest = codebook.manifest
    objective, shares = manifest.get("objective", []), manifest.get("shares", [])
    known = objective and shares and shares[-1] == 1 and manifest.get("metric") == "l2" and not _has_levels(codebook)
    scale = float(np.square(codebook.centroids.astype(np.float64)).sum(axis=1).max())
    return not known or mean_distance <= objective[-1] * (1 + _RELATIVE) + _OF_SQUARES * scale


def _has_levels(codebook: Codebook) -> bool:
    return codebook.coarse_centroids is not None


def _wrong_means(codebook: Codebook, labels: PseudoLabels, sums: np.ndarray) -> Iterator[str]:
    sizes, centroids = labels.cluster_sizes, codebook.centroids.astype(np.float64)
    if not np.array_equal(sizes, codebook.counts):
        num_other = int((sizes != codebook.counts).sum())
        yield f"{codebook.folder}: {num_other} clusters have other counts than labels, though the clustering converged"
        return
    filled = sizes > 0
    means = sums[filled] / sizes[filled, None]
    if codebook.manifest.get("metric") == "cosine":
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        directed = norms[:, 0] > np.sqrt(_OF_SQUARES)
        means, filled = means[directed] / norms[directed], np.flatnonzero(filled)[directed]
    far = np.square(means - centroids[filled]).sum(axis=1) > _OF_SQUARES * np.square(means).sum(axis=1)
    if far.any():
        yield f"{codebook.folder}: {int(far.sum())} centroids are not the means of their features"
