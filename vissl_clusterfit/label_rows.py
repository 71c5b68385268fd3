"""From the features of a few samples to what a label artefact keeps of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vissl_clusterfit.clustering.balance import BoundedLabels
from vissl_clusterfit.errors import DataError

UNLABELLED = -1


def labels_of_rows(
    rows_nD: np.ndarray,
    start: int,
    unreadable: np.ndarray,
    nearest: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    num_clusters: int,
    max_distance: float | None,
    top_clusters: int,
    bounded: BoundedLabels | None,
) -> tuple[np.ndarray, ...]:
    """What is kept of a few samples.

    Args:
        rows_nD: their features, (n, D).
        start: the first one's index.
        unreadable: the samples without features, ascending.
        nearest: from features to nearest clusters and squared distances, as ``Codebook.nearest`` gives it.
        num_clusters: K.
        max_distance: samples whose squared distance is larger stay without label; None labels all.
        top_clusters: T.
        bounded: gives labels within a bound on the size of clusters; None for the nearest ones.

    Returns:
        Labels, distances and margins (n,), -1 in all three for samples without features; with T > 1, nearest clusters
        and distances (n, T), too, -1 in both for samples without label.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    low, high = np.searchsorted(unreadable, [start, start + len(rows_nD)])
    readable = np.ones(len(rows_nD), dtype=bool)
    readable[unreadable[low:high] - start] = False
    labels = np.full(len(rows_nD), UNLABELLED, dtype=np.int64)
    distances, margins = (np.full(len(rows_nD), UNLABELLED, dtype=np.float32) for _ in range(2))
    _require_finite(rows_nD, start)
    clusters, near = nearest(rows_nD[readable], min(max(2, top_clusters), num_clusters))
    labels[readable], distances[readable] = clusters[:, 0], near[:, 0]
    # Of two centroids that are equally near to within float32 rounding, faiss may give either first.
    margins[readable] = np.maximum(near[:, 1] - near[:, 0], 0) if num_clusters > 1 else np.inf
    if bounded is not None:
        samples = start + np.flatnonzero(readable)
        found = bounded.assign(samples, rows_nD[readable], clusters[:, 0], distances[readable], margins[readable])
        labels[readable], distances[readable], margins[readable] = found
    if max_distance is not None:
        labels[distances > max_distance] = UNLABELLED
    if top_clusters == 1:
        return labels, distances, margins
    top, top_distances = (np.full((len(rows_nD), top_clusters), UNLABELLED, dtype) for dtype in (np.int64, np.float32))
    top[readable], top_distances[readable] = clusters[:, :top_clusters], near[:, :top_clusters]
    top[labels < 0] = top_distances[labels < 0] = UNLABELLED
    return labels, distances, margins, top, top_distances


def _require_finite(rows_nD: np.ndarray, start: int) -> None:
    if rows_nD.size and not (np.isfinite(rows_nD.min()) and np.isfinite(rows_nD.max())):
        first = start + int(np.argmin(np.isfinite(rows_nD).all(axis=1)))
        raise DataError(
            f"The features of sample {first} are NaN or infinite. Extract the features again with a teacher that gives "
            "finite ones."
        )
