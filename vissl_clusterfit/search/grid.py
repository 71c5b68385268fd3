"""Vectors rounded to a grid of 8 bits for each dimension, and their nearest ones there.

Which of two rounded vectors is nearer is decided in whole numbers (``integer_products.py``), so on any machine in the
same way. How far it is from the nearest of the vectors as they were is for those to measure that use it.

Legend: n rows, D dimensions, K centroids.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vissl_clusterfit.search.integer_products import LARGEST, integer_products

#: The grid reaches so many times as far as the sample that it is made for.
_BEYOND_SAMPLE = 1.5
# Numbers that are rounded at a time: they stay in the processor's cache.
_PART_VALUES = 1 << 18
# In float32 its neighbours are whole numbers, and its last bits are 0; the most steps that can be subtracted from it.
_WHOLE, _MOST_STEPS = 1.5 * 2**23, 1 << 20
# Rows and centroids of one block of scores, which stays in the processor's cache.
_BLOCK_ROWS, _BLOCK_CENTROIDS = 256, 1024
#: With more dimensions, a squared distance could overflow.
MOST_DIMS = 1 << 13


@dataclass(frozen=True)
class Grid:
    """Multiples of a step.

    Attributes:
        step: of all dimensions.
        shift: (D,) float32, whole numbers: of steps, what is subtracted of each dimension.
    """

    step: float
    shift: torch.Tensor

    @classmethod
    def around(cls, sample_SD: np.ndarray) -> Grid:
        """One that holds vectors (S, D) float32, and most of those that they were drawn from."""
        low, high = torch.from_numpy(sample_SD).aminmax(dim=0)
        middle = low / 2 + high / 2
        reach = float((high - middle).max()) * _BEYOND_SAMPLE
        step = max(reach / LARGEST, float(middle.abs().max()) / _MOST_STEPS, 1e-30)
        return cls(step, (middle / step).round_())

    def rounded(self, rows_nD: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (n, D) float32 as (n, D) int8, and which of them the grid does not reach, (n,) bool."""
        rows = torch.from_numpy(rows_nD)
        found = torch.empty(rows.shape, dtype=torch.int8)
        beyond = torch.zeros(len(rows), dtype=torch.bool)
        size = max(1, _PART_VALUES // rows.shape[1])
        # A number that is added to this one is rounded, and its steps are the last bits. In few operations: between
        # two of them a thread waits for the interpreter.
        zero = _WHOLE - self.shift
        steps = torch.empty(min(size, len(rows)), rows.shape[1])
        for part, into, out in zip(rows.split(size), found.split(size), beyond.split(size), strict=True):
            steps = steps[: len(part)]
            torch.mul(part, 1 / self.step, out=steps).add_(zero)
            least, most = steps.aminmax()
            if float(least) < _WHOLE - LARGEST or float(most) > _WHOLE + LARGEST:
                out.copy_(((steps - _WHOLE).abs_() > LARGEST).any(dim=1))
                steps.clamp_(_WHOLE - LARGEST, _WHOLE + LARGEST)
            into.copy_(steps.view(torch.int32))
        return found, beyond


class GridCentroids:
    """Centroids on the grid.

    Args:
        rounded: (K, D) int8.
        beyond: (K,) bool, which the grid does not reach: no row is nearest to them.
    """

    def __init__(self, rounded: torch.Tensor, beyond: torch.Tensor) -> None:
        self.rounded = rounded
        self._halves = (_squares(rounded) >> 1).masked_fill_(beyond, torch.iinfo(torch.int32).max // 2)

    def __len__(self) -> int:
        return len(self.rounded)

    def squared_distances(self, rows: torch.Tensor) -> np.ndarray:
        """Of rows (n, D) int8 from all centroids, (n, K) int64."""
        products = torch.empty(len(rows), len(self), dtype=torch.int32)
        integer_products(rows, self.rounded, products)
        return (_squares(rows)[:, None] + _squares(self.rounded) - products.mul_(2)).long().numpy()

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """x·c - |c|²/2 of rows (n, D) int8, (n, K) int32: largest where the distance is least."""
        found = torch.empty(len(rows), len(self), dtype=torch.int32)
        integer_products(rows, self.rounded, found)
        return found.sub_(self._halves)

    def among(self, chosen: torch.Tensor) -> GridCentroids:
        """Some of them, by their indices (k,) int32 or int64."""
        return self._of(lambda own: own.index_select(0, chosen))  # in a quarter of the time of brackets

    def _of(self, choose: Callable[[torch.Tensor], torch.Tensor]) -> GridCentroids:
        found = copy.copy(self)
        found.rounded, found._halves = choose(self.rounded), choose(self._halves)
        return found

    def nearest(self, rows: torch.Tensor, count: int = 1) -> torch.Tensor:
        """The ``count`` nearest centroids of (n, D) int8, (n, count) int64, nearest first; the first of several."""
        found = [self._nearest(part, count) for part in rows.split(_BLOCK_ROWS)]
        return torch.cat(found) if found else torch.empty(0, count, dtype=torch.int64)

    def _nearest(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        best, labels = [], []
        for low in range(0, len(self), _BLOCK_CENTROIDS):
            scores = self._of(operator.itemgetter(slice(low, low + _BLOCK_CENTROIDS))).scores(rows)
            for _ in range(min(count, scores.shape[1])):
                label = largest(scores)[:, None]
                best.append(scores.gather(1, label))
                labels.append(label + low)
                if count > 1:
                    scores.scatter_(1, label, torch.iinfo(torch.int32).min)
        if len(labels) == count:
            return torch.cat(labels, dim=1)
        order = torch.cat(best, dim=1).sort(dim=1, descending=True, stable=True).indices[:, :count]
        return torch.cat(labels, dim=1).gather(1, order)


def largest(scores: torch.Tensor) -> torch.Tensor:
    """Where the largest of each row (n, k) int32 is, (n,) int64; the first of several."""
    return torch.from_numpy(scores.numpy().argmax(axis=1))  # in a seventh of PyTorch's time


def _squares(rows: torch.Tensor) -> torch.Tensor:
    return rows.int().square_().sum(dim=1, dtype=torch.int32)
