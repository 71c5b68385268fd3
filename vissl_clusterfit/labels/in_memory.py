"""Labels of rows in memory, of any number and of any data that the codebook's features are like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.sources import chunk_rows
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.features.arrays import require_finite, require_rows
from vissl_clusterfit.labels.assign import AssignmentOptions, assign_rows, nearest_centroids
from vissl_clusterfit.storage.paths import artifact_path


@dataclass(frozen=True, eq=False)
class RowLabels:
    """The clusters of rows in memory.

    Attributes:
        labels: (n,) int64, the nearest cluster; -1 beyond ``max_distance``.
        distances: (n,) float32, squared L2 distance to its centroid.
        margins: (n,) float32, how much farther, squared, the second nearest is; infinite for K = 1.
        nearest: (n, T) int64, the nearest clusters, nearest first; None for T = 1.
        nearest_distances: (n, T) float32, to them; None for T = 1.
    """

    labels: np.ndarray
    distances: np.ndarray
    margins: np.ndarray
    nearest: np.ndarray | None = None
    nearest_distances: np.ndarray | None = None


def label_rows(
    rows: np.ndarray,
    codebook: Codebook | str | Path,
    *,
    max_distance: float | None = None,
    top_clusters: int = 1,
    device: str = "cpu",
) -> RowLabels:
    """The nearest clusters of any rows, in memory: what :func:`vissl_clusterfit.make_labels` would write.

    Args:
        rows: (n, D) of float16, float32 or float64.
        codebook: the clusters, or their folder.
        max_distance: rows whose squared distance is larger get no label (-1); None labels all.
        top_clusters: T; with more than 1, the T nearest clusters are given, too.
        device: "cpu" or "cuda".

    Raises:
        DataError: rows are not what they must be.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import label_rows, make_codebook
        >>> points = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], dtype=np.float32)
        >>> codebook = make_codebook(points, "run/codebook", num_clusters=2, normalize=False)
        >>> found = label_rows(np.array([[1.0, 1.0], [13.0, 1.0]]), codebook, max_distance=4)
        >>> codebook.centroids[found.labels[0]], int(found.labels[1]), found.distances
        (array([0., 1.], dtype=float32), -1, array([1., 9.], dtype=float32))
    """
    made = codebook if isinstance(codebook, Codebook) else Codebook.open(artifact_path(str(codebook), "codebook"))
    require_rows(rows, "rows")
    require_finite([("rows", rows)])
    if rows.shape[1] != made.input_dim:
        raise DataError(problem("rows", found=f"{rows.shape[1]} columns", allowed=f"{made.input_dim}, as the codebook"))
    if not 1 <= top_clusters <= made.num_clusters:
        raise ConfigError(problem("top_clusters", found=top_clusters, allowed=f"1 to {made.num_clusters}"))
    search, rules = made.search(device), AssignmentOptions(made.num_clusters, max_distance, top_clusters)
    nobody = np.empty(0, dtype=np.int64)
    found, size = [], chunk_rows(rows.shape[1])
    for start in range(0, len(rows), size):
        chunk = np.ascontiguousarray(rows[start : start + size], dtype=np.float32)
        found.append(assign_rows(nearest_centroids(chunk, start, nobody, search, rules), rules))
    return RowLabels(*map(np.concatenate, zip(*found, strict=True)))
