"""What k-means sees of its data: a few calls, whether vectors are in memory, on disk, or spread over processes.

Legend: N vectors, D dimensions, K clusters, n vectors of one chunk. A *position* counts the vectors of a source from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

T = TypeVar("T")


class Search(Protocol):
    """Finds the nearest of K centroids."""

    @property
    def num_clusters(self) -> int:
        """K."""

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest centroids of (n, D) float32, as (n,) int64."""

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest centroids of (n, D) float32, nearest first.

        Returns:
            Centroids (n, count) int64 and squared L2 distances to them (n, count) float32.
        """


#: Makes a search of (K, D) float32 centroids.
SearchFactory = Callable[[np.ndarray], Search]


@dataclass(frozen=True, eq=False)
class ClusterSums:
    """One pass over the data with given centroids: all that Lloyd's update needs.

    Attributes:
        sums: (K, D) float64, the sum of each cluster's vectors.
        counts: (K,) int64, their number.
        squares: the sum of the squared norms of all vectors.
    """

    sums: np.ndarray
    counts: np.ndarray
    squares: float

    @property
    def num_vectors(self) -> int:
        """The vectors that were summed."""
        return int(self.counts.sum())

    def objective(self, centroids: np.ndarray) -> float:
        """The mean squared distance of these vectors to the centroids that they were assigned to.

        From the sums alone: the sum of |x - c|² over a cluster is the sum of |x|², less 2c·(sum of x), plus n|c|².

        Args:
            centroids: (K, D) float32.
        """
        cross = np.einsum("kd,kd->", centroids, self.sums, dtype=np.float64)
        own = np.einsum("kd,kd->k", centroids, centroids, dtype=np.float64) @ self.counts
        return max(0.0, float(self.squares - 2 * cross + own)) / self.num_vectors


@dataclass(frozen=True, eq=False)
class Farthest:
    """Of each cluster the vector that is farthest from its centroid.

    Attributes:
        distances: (K,) float32, squared; 0 for a cluster without vectors.
        positions: (K,) int64, the first of several; -1 for distances of 0.
    """

    distances: np.ndarray
    positions: np.ndarray


class VectorSource(Protocol):
    """N vectors of D dimensions. The k-means loop never learns where they are.

    A *share* of a source is a fixed sample of it, drawn by position: 1 is all of it, and that of 0.25 is part of that
    of 0.5.
    """

    @property
    def num_vectors(self) -> int:
        """N."""

    @property
    def dim(self) -> int:
        """D."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at ``positions`` (sorted, ascending), as (n, D) float32."""

    def chunks(self, share: float = 1.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All vectors of a share that are this process's, in order, as (positions (n,) int64, (n, D) float32)."""

    def positions(self, share: float = 1.0) -> Iterator[np.ndarray]:
        """The positions (n,) int64 of each chunk, without reading it."""

    def over_chunks(self, work: Callable[[np.ndarray, np.ndarray], None], share: float = 1.0) -> None:
        """Calls ``work`` with every chunk. What it raises on one process of a run is raised on all."""

    def gather(self, value: T) -> list[T]:
        """One value of each process that has a part of the source, in order, on every one of them."""

    def accumulate(self, search: Search, share: float = 1.0) -> ClusterSums:
        """Assigns every vector of a share to its nearest centroid. All processes of the run call it together."""

    def farthest(self, search: Search, share: float = 1.0) -> Farthest:
        """The farthest vector of each cluster. All processes of the run call it together."""
