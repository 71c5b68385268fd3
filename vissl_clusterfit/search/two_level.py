"""The nearest of K fine centroids by way of C coarse ones: a heuristic that looks at a few coarse clusters only.

For each vector: the coarse centroids that are nearest to it, and then, exactly, the nearest of their fine centroids.
Where a vector lies between many coarse clusters, a fine centroid of one that was not looked at may be nearer; how often
that happens is measured in docs/clustering.md. The result does not depend on which vectors come together.

Legend: n vectors, D dimensions, K fine centroids, C coarse ones, P coarse clusters that a vector looks at.
"""

from __future__ import annotations

import numpy as np
import torch

from vissl_clusterfit.search.protocol import SearchFactory

#: P.
NUM_PROBED = 8
# Values of the differences that decide between equal distances.
_BLOCK_VALUES = 1 << 20


class TwoLevelSearch:
    """The nearest fine centroids among those of the nearest coarse clusters.

    Attributes:
        card: None: which rows look at a coarse cluster is found on the processor.

    Args:
        centroids: (K, D) float32, in the order of their coarse clusters.
        coarse_centroids: (C, D) float32.
        fine_counts: (C,) int64, how many fine centroids each coarse cluster has, K in all.
        search_factory: makes a search of centroids.
        nprobe: P. With P = C the result is that of a search of all centroids.
    """

    card = None

    def __init__(
        self,
        centroids: np.ndarray,
        coarse_centroids: np.ndarray,
        fine_counts: np.ndarray,
        search_factory: SearchFactory,
        nprobe: int = NUM_PROBED,
    ) -> None:
        self.num_clusters = len(centroids)
        filled = fine_counts > 0
        counts = fine_counts[filled]
        self._centroids = centroids
        self._num_probed = nprobe
        self._starts = np.cumsum(counts) - counts
        # How many fine centroids any one, two, ... coarse clusters have at least.
        self._least = np.cumsum(np.sort(counts))
        self._coarse = search_factory(coarse_centroids[filled])
        self.num_threads, self.num_rows = self._coarse.num_threads, 0
        self._fine = [search_factory(part) for part in np.split(centroids, self._starts[1:])]

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest centroids that were found, of (n, D) float32, as (n,) int64."""
        return self.nearest(rows_nD)[0][:, 0]

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest centroids that were found, of (n, D) float32, nearest first.

        Where P coarse clusters may have fewer centroids than that, more are looked at.

        Returns:
            Centroids (n, count) int64 and squared L2 distances to them (n, count) float32.
        """
        enough = int(np.searchsorted(self._least, count)) + 1
        nprobe = min(max(self._num_probed, enough), len(self._fine))
        probed = self._coarse.nearest(rows_nD, nprobe)[0]
        labels = np.full((len(rows_nD), nprobe, count), self.num_clusters, dtype=np.int64)
        distances = np.full(labels.shape, np.inf, dtype=np.float32)
        # All vectors that look at a coarse cluster, together: so products stay products of matrices.
        order = np.argsort(probed, axis=None, kind="stable")
        looks = np.split(order, np.cumsum(np.bincount(probed.ravel(), minlength=len(self._fine)))[:-1])
        for search, start, look in zip(self._fine, self._starts, looks, strict=True):
            if len(look):
                row, slot = np.divmod(look, nprobe)
                width = min(count, search.num_clusters)
                found, near = search.nearest(rows_nD[row], width)
                labels[row, slot, :width] = start + found
                distances[row, slot, :width] = near
        flat = (len(rows_nD), nprobe * count)
        return self._merged(rows_nD, labels.reshape(flat), distances.reshape(flat), count)

    def _merged(
        self, rows_nD: np.ndarray, labels: np.ndarray, distances: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of all that were found, (n, P · count) each."""
        labels, distances = _ordered(labels, distances, distances)
        # Distances that are equal in float32 may differ in float64, in which a search of all centroids decides.
        equal = (distances[:, 1:] == distances[:, :-1]) & (labels[:, 1:] < self.num_clusters)
        equal_rows = np.flatnonzero(equal[:, :count].any(axis=1))
        size = max(1, _BLOCK_VALUES // (labels.shape[1] * rows_nD.shape[1]))
        for low in range(0, len(equal_rows), size):
            some = equal_rows[low : low + size]
            exact = self._exact(rows_nD[some], labels[some])
            labels[some], distances[some] = _ordered(labels[some], distances[some], exact)
        return labels[:, :count], distances[:, :count]

    def _exact(self, rows_nD: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Squared distances (n, m) float64 of rows to centroids (n, m); infinite where there is none."""
        real = labels < self.num_clusters
        row = np.nonzero(real)[0]
        rows = torch.from_numpy(rows_nD[row]).to(torch.float64)
        squared = rows.sub_(torch.from_numpy(self._centroids[labels[real]])).square_().sum(dim=1)
        exact = np.full(labels.shape, np.inf)
        exact[real] = squared.numpy()
        return exact


def _ordered(labels: np.ndarray, distances: np.ndarray, by: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and distances of each row by what ``by`` says, and where that is equal by index."""
    order = np.lexsort((labels, by), axis=1)
    return np.take_along_axis(labels, order, axis=1), np.take_along_axis(distances, order, axis=1)
