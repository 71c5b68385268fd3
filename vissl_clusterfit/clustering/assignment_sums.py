"""The sums of the vectors of each cluster, over one pass; and what a later pass over the same vectors can go on from.

Vectors that are assigned again and again change their cluster less and less. Sums are exact (``reproducible_sums.py``):
those of which vectors were taken away, and to which others were added, have the very bits of a new sum. So only vectors
that change their cluster are added up again.

Legend: N vectors, n of one chunk, K clusters, D dimensions.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.protocol import ChunkTask, ClusterSums, Fraction
from vissl_clusterfit.clustering.reproducible_sums import Accumulator, SquareSum, ValueRange, squared_norms
from vissl_clusterfit.search.protocol import Search
from vissl_clusterfit.search.threads import one_thread


class LastAssignment:
    """The clusters of vectors as they were last assigned, and the sums of each share: K x D numbers of float64.

    Args:
        num_vectors: N.
        shares: those that are remembered; no two have a vector in common.
    """

    def __init__(self, num_vectors: int, shares: Collection[Fraction]) -> None:
        self._shares = frozenset(shares)
        self._labels = np.zeros(num_vectors if shares else 0, dtype=np.int32)
        self._sums: dict[Fraction, Accumulator] = {}

    def __contains__(self, share: Fraction) -> bool:
        return share in self._shares

    def sums(self, share: Fraction) -> Accumulator | None:
        """Those of a share; None before it was assigned."""
        return self._sums.get(share)

    def keep_sums(self, share: Fraction, sums: Accumulator) -> None:
        """Those of a share that was assigned for the first time."""
        self._sums[share] = sums

    def keep_labels(self, positions: np.ndarray, labels: np.ndarray) -> None:
        """The clusters (n,) of the vectors at ``positions`` (n,), the first time."""
        self._labels[positions] = labels

    def move(self, share: Fraction, positions: np.ndarray, rows_nD: np.ndarray, labels_n: np.ndarray) -> None:
        """Those of the vectors (n, D) at ``positions`` (n,) of a share that has sums. Not from several threads."""
        before = self._labels[positions]
        changed = np.flatnonzero(before != labels_n)
        self._sums[share].move(rows_nD[changed], before[changed].astype(np.int64), labels_n[changed])
        self._labels[positions[changed]] = labels_n[changed]


class AssignmentSums:
    """One pass over a share of a source.

    Args:
        search: of the centroids.
        share: what is passed over.
        num_vectors: N, of the source.
        dim: D.
        extent: of all its vectors.
        squares: of each share the sum of the squared norms, which is the same in every pass; this one's is added.
        last: what is known of earlier passes, and will be of this one.
    """

    def __init__(
        self,
        search: Search,
        share: Fraction,
        num_vectors: int,
        dim: int,
        extent: ValueRange,
        squares: dict[Fraction, float],
        last: LastAssignment | None,
    ) -> None:
        self._search, self._share, self._squares = search, share, squares
        self._last = last if last is not None and share in last and search.card is None else None
        self._known = self._last.sums(share) if self._last is not None else None
        with one_thread():
            self._sums = self._known or Accumulator(search.num_clusters, dim, extent, num_vectors, search.card)
        self._square_sum, self._adding = SquareSum(dim, extent, num_vectors), threading.Lock()

    @property
    def task(self) -> ChunkTask:
        """What is done with each chunk."""
        search = self._search
        work = ChunkTask(self._add, search.labels, search.num_threads, search.num_rows, search.card, stays=True)
        if self._last is not None and self._known is not None:
            work = replace(work, consume=functools.partial(self._last.move, self._share))
        elif self._last is not None or search.num_threads > 1:  # no order changes sums: none waits for its turn to add
            work = replace(work, consume=self._keep, compute=self._label_and_add)
        return work if self._share in self._squares else replace(work, look=self._add_squares)

    def total(self, *, over_processes: bool) -> ClusterSums:
        """The sums when all chunks are done, over all processes of the run if these share the pass."""
        sums = self._sums
        if self._last is not None:
            self._last.keep_sums(self._share, sums)
            sums = sums.copy()
        if over_processes:
            sums.add_up_over_processes()
        if self._share not in self._squares:
            if over_processes:
                self._square_sum.add_up_over_processes()
            self._squares[self._share] = self._square_sum.total()
        return sums.total(self._squares[self._share])

    def _add(self, _: np.ndarray, rows: Any, labels: Any) -> None:
        self._sums.add(rows, labels)

    def _label_and_add(self, rows: np.ndarray) -> np.ndarray:
        labels = self._search.labels(rows)
        self._sums.add(rows, labels)
        return labels

    def _keep(self, positions: np.ndarray, _: np.ndarray, labels: np.ndarray) -> None:
        if self._last is not None:
            self._last.keep_labels(positions, labels)

    def _add_squares(self, rows: np.ndarray) -> None:
        norms = squared_norms(rows)
        with self._adding:
            self._square_sum.add(norms)
