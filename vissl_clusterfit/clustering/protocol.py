"""What k-means sees of its data: a few calls, whether vectors are in memory, on disk, or spread over processes.

Legend: N vectors, D dimensions, K clusters, n vectors of one chunk. A *position* counts the vectors of a source from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

# Sums are taken over so many rows at once, which stay in the processor's cache: ten times as fast as a chunk.
_BLOCK_ROWS = 1024


class Search(Protocol):
    """Finds the nearest of K centroids."""

    @property
    def num_clusters(self) -> int:
        """K."""

    def __call__(self, rows_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For (n, D) float32: the nearest centroids (n,) int64, squared L2 distances to them (n,) float32."""


@dataclass
class ClusterSums:
    """One pass over the data with given centroids: all that Lloyd's update needs.

    Attributes:
        sums: (K, D) float64, the sum of each cluster's vectors.
        counts: (K,) int64, their number.
        objective: the sum of squared distances to the nearest centroid.
        farthest_distances: (K,) float32, the squared distance of each cluster's farthest vector.
        farthest_positions: (K,) int64, where that vector is, the first of several; -1 for distances of 0.
    """

    sums: np.ndarray
    counts: np.ndarray
    objective: float
    farthest_distances: np.ndarray
    farthest_positions: np.ndarray

    @classmethod
    def zeros(cls, num_clusters: int, dim: int) -> ClusterSums:
        """Those of no vectors."""
        return cls(
            sums=np.zeros((num_clusters, dim), dtype=np.float64),
            counts=np.zeros(num_clusters, dtype=np.int64),
            objective=0.0,
            farthest_distances=np.zeros(num_clusters, dtype=np.float32),
            farthest_positions=np.full(num_clusters, -1, dtype=np.int64),
        )

    def add(self, start: int, rows_nD: np.ndarray, labels_n: np.ndarray, distances_n: np.ndarray) -> None:
        """Adds the vectors at positions ``start`` onwards, in place."""
        sums, labels = torch.from_numpy(self.sums), torch.from_numpy(labels_n)
        with _one_thread():
            for low in range(0, len(rows_nD), _BLOCK_ROWS):
                block = slice(low, low + _BLOCK_ROWS)
                sums.index_add_(0, labels[block], torch.from_numpy(rows_nD[block].astype(np.float64)))
        self.counts += np.bincount(labels_n, minlength=len(self.counts))
        self.objective += float(distances_n.sum(dtype=np.float64))
        before = self.farthest_distances.copy()
        np.maximum.at(self.farthest_distances, labels_n, distances_n)
        reached = (distances_n == self.farthest_distances[labels_n]) & (distances_n > before[labels_n])
        farthest = np.flatnonzero(reached)[::-1]  # the last one written stays: the first of several
        self.farthest_positions[labels_n[farthest]] = start + farthest


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: its pool and faiss's wait for each other, which takes far longer than the work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


class VectorSource(Protocol):
    """N vectors of D dimensions. The k-means loop never learns where they are."""

    @property
    def num_vectors(self) -> int:
        """N."""

    @property
    def dim(self) -> int:
        """D."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at ``positions`` (sorted, ascending), as (n, D) float32."""

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All vectors in order, as (position of the first, (n, D) float32)."""

    def accumulate(self, search: Search) -> ClusterSums:
        """Assigns every vector to its nearest centroid."""
