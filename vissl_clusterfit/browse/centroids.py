"""Where the clusters lie: the neighbours of each, and all of them in a plane."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.search.torch_search import TorchSearch

PCA, UMAP = "pca", "umap"
_ROWS_AT_ONCE = 2048
# More centroids take minutes.
_QUICK_FOR_UMAP = 5000


def neighbours(centroids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other centroids of each, nearest first.

    Args:
        centroids: (K, D) float32.
        count: how many, of those that there are.

    Returns:
        int64 (K, c) and the squared distances to them, float32 (K, c), with c = min(count, K - 1).
    """
    num_clusters = len(centroids)
    kept = min(count, num_clusters - 1)
    others = np.empty((num_clusters, kept), dtype=np.int64)
    distances = np.empty((num_clusters, kept), dtype=np.float32)
    search = TorchSearch(centroids)
    for start in range(0, num_clusters, _ROWS_AT_ONCE):
        rows = centroids[start : start + _ROWS_AT_ONCE]
        found, how_far = search.nearest(rows, kept + 1)
        # Itself is not always the first: another may be the same to the bit.
        is_self = found == np.arange(start, start + len(rows))[:, None]
        is_self[~is_self.any(axis=1), -1] = True
        others[start : start + len(rows)] = found[~is_self].reshape(len(rows), kept)
        distances[start : start + len(rows)] = how_far[~is_self].reshape(len(rows), kept)
    return others, distances


def plane_of(centroids: np.ndarray, method: str = "") -> tuple[np.ndarray, str]:
    """The centroids in a plane, float32 (K, 2), and how they came there, in words.

    Args:
        centroids: (K, D) float32.
        method: "pca": the two components of largest variance; "umap" (McInnes, Healy and Melville, 2018), which needs
            ``umap-learn``; "" for UMAP of at most 5,000 centroids where it is installed, else PCA.

    Raises:
        MissingDependencyError: UMAP is not installed.
    """
    if method == UMAP:
        require(UMAP)
    if method == UMAP or (not method and len(centroids) <= _QUICK_FOR_UMAP and find_spec(UMAP)):
        from umap import UMAP as Umap

        neighbours_each = min(15, max(2, len(centroids) - 1))
        if len(centroids) > neighbours_each + 2:
            placed = Umap(n_neighbors=neighbours_each, random_state=0).fit_transform(centroids)
            return np.asarray(
                placed, dtype=np.float32
            ), "UMAP: near ones are near, distances between groups mean little"
    centred = centroids.astype(np.float64) - centroids.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1.0, 1.0)
    placed = np.zeros((len(centroids), 2), dtype=np.float32)
    placed[:, : axes.shape[1]] = centred @ axes
    share = float(values[::-1][:2].sum() / values.sum()) if values.sum() > 0 else 1.0
    return placed, f"PCA: its two axes have {share:.0%} of the variance"
