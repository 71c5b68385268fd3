"""Sums of float32 vectors that are the same to the last bit in whatever order, on however many processes.

Before they are added, numbers are rounded to multiples of one power of two, so large that float64 holds every partial
sum without rounding: then addition is associative. What the rounding takes away is far below the resolution of a
float32 mean; where numbers span a wide range, it is summed in further bins, each on a finer grid (Demmel and Nguyen,
"Parallel Reproducible Summation", 2015, section 3).

A card gives the same bits. The part of a number comes from additions and subtractions in float64, one operation after
another, each rounded to nearest as IEEE 754 says: there is no product that a compiler could fuse with one, and widening
float32 is exact, subnormal numbers included. Parts are multiples of the grid g, and the sum of the absolute values of
all of them is below 2^53 g: so is the absolute value of the sum of any of them. Hence each of the additions of
``index_add_``, which a card makes atomically and in an order that nobody knows, has a result that float64 holds.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.protocol import ClusterSums
from vissl_clusterfit.search.protocol import Rows

_FLOAT64_BITS = 52
# The grid is finer than a typical number by so many bits: as many as float32 has.
_KEPT_BITS = 24
#: Sums of a number, at most.
MAX_BINS = 4
# Rows are added in blocks whose float64 copy stays in the processor's cache, or is little of a card's memory.
_BLOCK_VALUES = {"cpu": 1 << 18, "cuda": 1 << 24}


@dataclass(frozen=True)
class ValueRange:
    """How large the numbers of a source are.

    Attributes:
        largest: no number is larger, in absolute value.
        typical: the root of the mean square.
    """

    largest: float
    typical: float


class SumGrid:
    """Splits numbers into parts whose sums are exact.

    Args:
        extent: of the numbers.
        num_terms: how many are added at most.
    """

    def __init__(self, extent: ValueRange, num_terms: int) -> None:
        bits = _FLOAT64_BITS - max(1, math.ceil(math.log2(max(num_terms, 2))))
        top = math.frexp(extent.largest)[1]  # no number reaches 2 ** top
        wanted = math.frexp(extent.typical)[1] - _KEPT_BITS
        self._magic: list[float] = []
        while not self._magic or (top > wanted and len(self._magic) < MAX_BINS and extent.typical > 0):
            # Adding and subtracting it leaves a multiple of 2 ** (top - bits).
            self._magic.append(math.ldexp(1.5, _FLOAT64_BITS + top - bits))
            top -= bits
        self.num_bins = len(self._magic)

    def parts(self, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """The parts of a tensor, float64, one per bin; their sum is the tensor to within the last grid.

        Each is to be used before the next is asked for.
        """
        part = torch.empty(values.shape, dtype=torch.float64, device=values.device)
        for number, magic in enumerate(self._magic, 1):
            part.copy_(values).add_(magic).sub_(magic)  # in float64 from the start
            yield part
            if number < self.num_bins:
                values = values - part


class Accumulator:
    """Adds up the vectors of each cluster; every process of a run has one.

    Args:
        num_clusters: K.
        dim: D.
        extent: of all vectors of the source.
        num_vectors: N, of the source.
        card: where vectors are, and are added up; None for the processor.
    """

    def __init__(
        self, num_clusters: int, dim: int, extent: ValueRange, num_vectors: int, card: torch.device | None = None
    ) -> None:
        self._grid = SumGrid(extent, num_vectors)
        self._sums = torch.zeros(self._grid.num_bins, num_clusters, dim, dtype=torch.float64, device=card)
        self._counts = torch.zeros(num_clusters, dtype=torch.int64, device=card)
        self._adding = threading.Lock()

    def add(self, rows_nD: Rows, labels_n: Rows) -> None:
        """Adds vectors (n, D) float32 to the clusters (n,) int64, as arrays, or as tensors on the card.

        It waits for no card. Several threads may call it at the same time.
        """
        self._change(torch.as_tensor(rows_nD), ((torch.as_tensor(labels_n), 1),))

    def move(self, rows_nD: np.ndarray, before_n: np.ndarray, labels_n: np.ndarray) -> None:
        """Takes vectors (n, D) float32 out of the clusters (n,) int64 that they were added to, and adds them to others.

        What is left are sums of the same numbers in another order.
        """
        self._change(torch.from_numpy(rows_nD), ((torch.from_numpy(before_n), -1), (torch.from_numpy(labels_n), 1)))

    def _change(self, rows: torch.Tensor, ways: tuple[tuple[torch.Tensor, int], ...]) -> None:
        size = max(1, _BLOCK_VALUES[rows.device.type] // rows.shape[1])
        for low in range(0, len(rows), size):
            for sums, part in zip(self._sums, self._grid.parts(rows[low : low + size]), strict=True):
                with self._adding:
                    for labels, sign in ways:
                        sums.index_add_(0, labels[low : low + size], part, alpha=sign)
        with self._adding:
            for labels, sign in ways:
                self._counts.index_add_(0, labels, torch.ones_like(labels), alpha=sign)

    def copy(self) -> Accumulator:
        """One that is changed by itself."""
        other = copy.copy(self)
        other._sums, other._counts = self._sums.clone(), self._counts.clone()
        return other

    def add_up_over_processes(self) -> None:
        """Gives every process of the run what all have added."""
        distributed.add_up(self._sums)
        distributed.add_up(self._counts)

    def total(self, squares: float) -> ClusterSums:
        """The sums, with the sum of squared norms ``squares``; nothing is added afterwards."""
        sums = self._sums[-1]
        for coarser in reversed(self._sums[:-1]):
            sums = sums.add_(coarser)
        return ClusterSums(sums.cpu().numpy(), self._counts.cpu().numpy(), squares)


class SquareSum:
    """The sum of the squared norms of vectors; every process of a run has one.

    Args:
        dim: D.
        extent: of all vectors of the source.
        num_vectors: N, of the source.
    """

    def __init__(self, dim: int, extent: ValueRange, num_vectors: int) -> None:
        self._grid = SumGrid(ValueRange(dim * extent.largest**2, dim * extent.typical**2), num_vectors)
        self._sums = torch.zeros(self._grid.num_bins, dtype=torch.float64)

    def add(self, squares: np.ndarray) -> None:
        """Adds the squared norms (n,) float64 of vectors, as :func:`squared_norms` gives them."""
        for number, part in enumerate(self._grid.parts(torch.from_numpy(squares))):
            self._sums[number] += part.sum()

    def add_up_over_processes(self) -> None:
        """Gives every process of the run what all have added."""
        distributed.add_up(self._sums)

    def total(self) -> float:
        """The sum; nothing is added afterwards."""
        return float(self._sums.flip(0).sum())


def squared_norms(rows_nD: np.ndarray) -> np.ndarray:
    """Of vectors (n, D) float32, as (n,) float64."""
    return np.einsum("nd,nd->n", rows_nD, rows_nD, dtype=np.float64)
