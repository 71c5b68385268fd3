"""From the features of a few samples to what a label artefact keeps of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.clustering.protocol import Search
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.labels.balanced import BoundedLabels

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class LabelRules:
    """How labels are given.

    Attributes:
        num_clusters: K.
        max_distance: samples whose squared distance is larger stay without label; None labels all.
        top_clusters: T.
        bounded: gives labels within a bound on the size of clusters; None for the nearest ones.
    """

    num_clusters: int
    max_distance: float | None = None
    top_clusters: int = 1
    bounded: BoundedLabels | None = None


@dataclass(frozen=True, eq=False)
class NearestOfRows:
    """The nearest clusters of those of a few samples that have features.

    Attributes:
        rows: (n, D) float32, their features.
        start: the first one's index.
        readable: (n,) bool, which have features: m of them.
        clusters: (m, max(2, T)) int64, nearest first.
        distances: to them, squared, float32.
    """

    rows: np.ndarray
    start: int
    readable: np.ndarray
    clusters: np.ndarray
    distances: np.ndarray


def nearest_of_rows(
    rows_nD: np.ndarray, start: int, unreadable: np.ndarray, search: Search, rules: LabelRules
) -> NearestOfRows:
    """Finds the nearest clusters of a few samples; what takes the time of labelling, and depends on no other sample.

    Args:
        rows_nD: their features, (n, D).
        start: the first one's index.
        unreadable: the samples without features, ascending.
        search: of features.
        rules: how labels will be given.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    low, high = np.searchsorted(unreadable, [start, start + len(rows_nD)])
    readable = np.ones(len(rows_nD), dtype=bool)
    readable[unreadable[low:high] - start] = False
    _require_finite(rows_nD, start)
    count = min(max(2, rules.top_clusters), rules.num_clusters)
    return NearestOfRows(rows_nD, start, readable, *search.nearest(rows_nD[readable], count))


def labels_of_rows(found: NearestOfRows, rules: LabelRules) -> tuple[np.ndarray, ...]:
    """What is kept of a few samples.

    Returns:
        Labels, distances and margins (n,), -1 in all three for samples without features; with T > 1, nearest clusters
        and distances (n, T), too, -1 in both for samples without label.
    """
    num_rows, readable, clusters, near = len(found.rows), found.readable, found.clusters, found.distances
    labels = np.full(num_rows, UNLABELLED, dtype=np.int64)
    distances, margins = (np.full(num_rows, UNLABELLED, dtype=np.float32) for _ in range(2))
    labels[readable], distances[readable] = clusters[:, 0], near[:, 0]
    # Of two centroids that are equally near to within float32 rounding, faiss may give either first.
    margins[readable] = np.maximum(near[:, 1] - near[:, 0], 0) if rules.num_clusters > 1 else np.inf
    if rules.bounded is not None:
        samples = found.start + np.flatnonzero(readable)
        bounded = rules.bounded.assign(
            samples, found.rows[readable], clusters[:, 0], distances[readable], margins[readable]
        )
        labels[readable], distances[readable], margins[readable] = bounded
    if rules.max_distance is not None:
        labels[distances > rules.max_distance] = UNLABELLED
    if rules.top_clusters == 1:
        return labels, distances, margins
    shape = (num_rows, rules.top_clusters)
    top, top_distances = (np.full(shape, UNLABELLED, dtype) for dtype in (np.int64, np.float32))
    top[readable], top_distances[readable] = clusters[:, : rules.top_clusters], near[:, : rules.top_clusters]
    top[labels < 0] = top_distances[labels < 0] = UNLABELLED
    return labels, distances, margins, top, top_distances


def _require_finite(rows_nD: np.ndarray, start: int) -> None:
    if rows_nD.size and not (np.isfinite(rows_nD.min()) and np.isfinite(rows_nD.max())):
        first = start + int(np.argmin(np.isfinite(rows_nD).all(axis=1)))
        raise DataError(
            f"The features of sample {first} are NaN or infinite. Extract the features again with a teacher that gives "
            "finite ones."
        )
