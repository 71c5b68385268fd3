"""What k-means sees of its data: a few calls, whether vectors are in memory, on disk, or spread over processes.

Legend: N vectors, D dimensions, K clusters, n vectors of one chunk. A *position* counts the vectors of a source from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from vissl_clusterfit.search.protocol import Search

T = TypeVar("T")
#: A fixed random part of a source: each vector has a number, and a share those with one from ``low`` to ``high``.
Fraction = tuple[float, float]
ALL: Fraction = (0.0, 1.0)


@dataclass(frozen=True)
class ChunkTask:
    """What is done with each chunk of a pass.

    Attributes:
        consume: called with the positions (n,) int64 of a chunk, its vectors (n, D) float32, and what was found: in the
            order of the chunks, one at a time.
        compute: from vectors (n, D) to what is to be found; called for several chunks at the same time.
        num_threads: for how many.
        num_rows: chunks are joined up to so many vectors for it, where these are few enough to be in memory.
        card: where both get the vectors, as a tensor; None for arrays in memory.
        stays: what is found on a card is consumed there; else it comes as arrays.
        look: called with the vectors as an array, wherever the others get them; for several chunks at the same time.
    """

    consume: Callable[[np.ndarray, Any, Any], None]
    compute: Callable[[Any], Any] = lambda rows: None
    num_threads: int = 1
    num_rows: int = 0
    card: torch.device | None = None
    stays: bool = False
    look: Callable[[np.ndarray], None] | None = None


@dataclass(frozen=True, eq=False)
class ClusterSums:
    """One pass over the data with given centroids: all that Lloyd's update needs.

    Attributes:
        sums: (K, D) float64, the sum of each cluster's vectors; float32 where they are kept for later iterations.
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

    def kept(self) -> ClusterSums:
        """The same with sums in float32: half the memory."""
        return ClusterSums(self.sums.astype(np.float32), self.counts, self.squares)

    def cost(self, centroids: np.ndarray) -> float:
        """The sum of the squared distances of these vectors to the centroids that they were assigned to.

        From the sums alone: the sum of |x - c|² over a cluster is the sum of |x|², less 2c·(sum of x), plus n|c|².

        Args:
            centroids: (K, D) float32.
        """
        cross = np.einsum("kd,kd->", centroids, self.sums, dtype=np.float64)
        squares = np.einsum("kd,kd->k", centroids, centroids, dtype=np.float64)
        # No dot product of BLAS, whose sum depends on the number of threads where K is large.
        own = np.einsum("k,k->", squares, self.counts, dtype=np.float64)
        return max(0.0, float(self.squares - 2 * cross + own))

    def objective(self, centroids: np.ndarray) -> float:
        """Their mean."""
        return self.cost(centroids) / max(1, self.num_vectors)


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
    """N vectors of D dimensions. The k-means loop never learns where they are."""

    @property
    def num_vectors(self) -> int:
        """N."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the vectors this process reads, of how many."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at ``positions`` (sorted, ascending), as (n, D) float32."""

    def chunks(self, share: Fraction = ALL) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All vectors of a share that are this process's, in order, as (positions (n,) int64, (n, D) float32)."""

    def positions(self, share: Fraction = ALL) -> Iterator[np.ndarray]:
        """The positions (n,) int64 of each chunk, without reading it."""

    def over_chunks(self, work: ChunkTask, share: Fraction = ALL) -> None:
        """Does ``work`` with every chunk. What it raises on one process of a run is raised on all."""

    def gather(self, value: T) -> list[T]:
        """One value of each process that has a part of the source, in order, on every one of them."""

    def accumulate(self, search: Search, share: Fraction = ALL) -> ClusterSums:
        """Assigns every vector of a share to its nearest centroid. All processes of the run call it together."""

    def remembering(self, shares: Collection[Fraction]) -> VectorSource:
        """The same, for passes over shares that come again; it takes memory, and no result differs.

        Args:
            shares: no two have a vector in common.
        """

    def farthest(self, search: Search, share: Fraction = ALL) -> Farthest:
        """The farthest vector of each cluster. All processes of the run call it together."""
