"""Exact search of nearest centroids with the matrix units of a processor or a GPU.

A matrix product in few bits gives every score at once. A bound on its rounding (``error_bounds.py``) says which
centroids can be the nearest; where more than one can, the distances are computed from differences in float64. So
labels are those of exact arithmetic on the float32 vectors, to within the last bits of float64, ties to the lower
index: they do not depend on the product type, the size of a block, the number of threads or processes, or the
machine.

Legend: n rows of a block, D dimensions, K centroids, B centroids of one group, P pairs of a row and a candidate.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_map

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.search import error_bounds
from vissl_clusterfit.search.threads import one_thread, parallel_map

Result = TypeVar("Result")

# Candidates are looked for among the maxima of so many scores.
_GROUP = 16
_WIDTH_MULTIPLE = 8
_HEIGHT_MULTIPLE = 256
# Values of one block of scores: a few MiB on a processor, so that they stay in its cache.
_BLOCK_SCORES = {"cpu": 1 << 22, "cuda": 1 << 28}
_BLOCK_ROWS = {"cpu": (64, 2048), "cuda": (256, 1 << 16)}
_PAIR_VALUES = {"cpu": 1 << 17, "cuda": 1 << 26}
# More candidates than this per uncertain row are narrowed down by a product in float32 first.
_MANY_CANDIDATES = 16
# Centroids of one product; more are searched part by part.
_TILE = 1 << 16


class TorchSearch:
    """The nearest of K centroids by squared L2 distance.

    Args:
        centroids: (K, D) float32, finite.
        device: "cpu" or "cuda".
        product_type: in which scores are computed; the faster one on this device if None. The result is the same.
    """

    def __init__(self, centroids: np.ndarray, device: str = "cpu", product_type: torch.dtype | None = None) -> None:
        on_card = device != "cpu"
        # A thread of its own would take the first one.
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_card else torch.device("cpu")
        self.num_clusters = len(centroids)
        self.num_threads = 1 if on_card else torch.get_num_threads()
        dtype = product_type or fast_product_type(self._device.type)
        rows = torch.from_numpy(np.ascontiguousarray(centroids, dtype=np.float32)).to(self._device)
        with one_thread():  # short operations, in which threads would mostly wait for each other
            self._tiles = [(low, _Tile(rows[low : low + _TILE], dtype)) for low in range(0, self.num_clusters, _TILE)]

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest centroids of (n, D) float32, as (n,) int64; see the module for what is exact."""
        if len(self._tiles) > 1:
            return self.nearest(rows_nD)[0][:, 0]
        _, tile = self._tiles[0]
        return torch.cat(self._of_blocks(tile.labels, rows_nD)).numpy()

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest centroids of (n, D) float32, nearest first, and squared distances to them.

        Returns:
            Centroids (n, count) int64 and distances (n, count) float32.

        Raises:
            DataError: a distance overflows float32.
        """
        labels, distances = zip(*self._of_blocks(lambda rows: self._nearest(rows, count), rows_nD), strict=True)
        result = torch.cat(distances).numpy()
        if not np.isfinite(result).all():
            raise DataError(
                "Features are too large: their squared distances overflow float32. Set "
                "config.CLUSTERFIT.FEATURES.NORMALIZE=true, or scale them down."
            )
        return torch.cat(labels).numpy(), result

    def _nearest(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = [(low, *tile.nearest(rows, min(count, tile.num_clusters))) for low, tile in self._tiles]
        labels = torch.cat([labels + low for low, labels, _ in found], dim=1)
        distances = torch.cat([distances for _, _, distances in found], dim=1)
        if len(found) > 1:
            order = distances.sort(dim=1, stable=True).indices[:, :count]  # tiles are in the order of their indices
            labels, distances = labels.gather(1, order), distances.gather(1, order)
        return labels, distances.float()

    def _of_blocks(self, work: Callable[[torch.Tensor], Result], rows_nD: np.ndarray) -> list[Result]:
        """``work`` of the rows, block by block, on the device and back."""
        least, _ = _BLOCK_ROWS[self._device.type]
        size = block_rows(self.num_clusters, self._device.type)
        rows = torch.from_numpy(np.ascontiguousarray(rows_nD, dtype=np.float32))
        with full_precision():
            if self._device.type == "cpu":
                size = max(least, min(size, -(-len(rows) // torch.get_num_threads())))
                return parallel_map(work, rows.split(size))
            found = [work(block.to(self._device)) for block in rows.split(size)]
            return [tree_map(torch.Tensor.cpu, result) for result in found]


class _Tile:
    """Up to some ten thousand centroids (K, D) float32 and their operand of the product."""

    def __init__(self, centroids: torch.Tensor, dtype: torch.dtype) -> None:
        self.num_clusters, self._dim = centroids.shape
        self._centroids = centroids
        self._dtype = dtype
        self._shift = centroids.mean(dim=0)
        if not torch.isfinite(self._shift).all():  # the sum overflows
            self._shift = centroids[0].clone()
        squares = self._squared_lengths(centroids)
        # A power of two brings very long and very short vectors to a length that float32 can square.
        exponent = math.frexp(math.sqrt(float(squares.max())))[1]
        self._scale = 1.0 if abs(exponent) <= 10 else math.ldexp(1.0, max(-126, min(126, -exponent)))
        # Columns for half the squared norm, and rows of scores that belong to no vector, up to whole groups.
        self._width = _up_to(self._dim + 3, _WIDTH_MULTIPLE)
        self._operand = torch.zeros(
            _up_to(self.num_clusters, _GROUP), self._width, dtype=dtype, device=centroids.device
        )
        own = self._operand[: self.num_clusters]
        self._prepared = error_bounds.shifted(centroids, self._shift, self._scale, own[:, : self._dim])
        own[:, self._dim : self._dim + 3] = error_bounds.split_float64(squares * (-(self._scale**2) / 2), dtype)
        self._operand[self.num_clusters :, self._dim] = torch.finfo(dtype).min
        self._ones = torch.zeros(self._width - self._dim, dtype=dtype, device=centroids.device)
        self._ones[:3] = 1

    def _squared_lengths(self, centroids: torch.Tensor) -> torch.Tensor:
        """Of the centroids less the shift, (K,) float64."""
        size = max(1, _PAIR_VALUES[centroids.device.type] // self._dim)
        parts = [part.double().sub_(self._shift).square_().sum(dim=1) for part in centroids.split(size)]
        return torch.cat(parts)

    @functools.cached_property
    def _finer(self) -> _Tile:
        return self if self._dtype == torch.float32 else _Tile(self._centroids, torch.float32)

    def labels(self, rows: torch.Tensor) -> torch.Tensor:
        """The nearest centroids of (n, D), as (n,) int64."""
        row, candidate = self._candidates(rows, 1)
        labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        labels[row] = candidate
        uncertain = torch.bincount(row, minlength=len(rows)) > 1
        of_uncertain = uncertain[row]
        row, candidate = row[of_uncertain], candidate[of_uncertain]
        if self._are_many(row, uncertain, 1):
            labels[uncertain] = self._narrowed(rows[uncertain], 1)[0][:, 0]
            return labels
        row, candidate = self._settled_in_float32(rows, row, candidate)
        labels[row] = candidate
        uncertain = torch.bincount(row, minlength=len(rows)) > 1
        of_uncertain = uncertain[row]
        if of_uncertain.any():
            row, candidate = row[of_uncertain], candidate[of_uncertain]
            labels[uncertain] = self._decide(rows, row, candidate, uncertain, 1)[0][:, 0]
        return labels

    def _settled_in_float32(
        self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pairs (P,) that may still be the nearest by their distances in float32, from differences."""
        squared = self._distances(rows, row, candidate, torch.float32)
        least = torch.full((len(rows),), torch.inf, device=rows.device).scatter_reduce_(0, row, squared, "amin")
        keep = ~(squared > error_bounds.certainly_farther(least, self._dim)[row])
        return row[keep], candidate[keep]

    def nearest(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``count`` nearest centroids of (n, D), (n, count) int64, and squared distances (n, count) float64."""
        row, candidate = self._candidates(rows, count)
        everyone = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if self._are_many(row, everyone, count):
            return self._narrowed(rows, count)
        return self._decide(rows, row, candidate, everyone, count)

    def _candidates(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs (P,) of a row and a centroid that may be among its ``count`` nearest; every row has as many."""
        # A product of few heights: oneDNN compiles and keeps one for each.
        height = _up_to(len(rows), min(_HEIGHT_MULTIPLE, block_rows(self.num_clusters, rows.device.type)))
        operand = torch.empty(height, self._width, dtype=self._dtype, device=rows.device)
        prepared = error_bounds.shifted(rows, self._shift, self._scale, operand[: len(rows), : self._dim])
        operand[: len(rows), self._dim :] = self._ones
        operand[len(rows) :] = 0
        # Scores of a group are far apart, those of a row's neighbours side by side: so maxima are quick to find.
        scores = (self._operand @ operand.T).view(len(self._operand) // _GROUP, _GROUP, height)[:, :, : len(rows)]
        maxima = scores.amax(dim=1)
        enough = len(maxima) >= count
        best = maxima.topk(count, dim=0).values[-1] if enough and count > 1 else maxima.amax(dim=0)
        limit = error_bounds.score_threshold(
            best, error_bounds.score_error(prepared, self._prepared, self._dim), self._dtype
        )
        anything = ~(prepared.norms < error_bounds.LONGEST_ROW)
        if not enough:
            anything = torch.ones_like(anything)
        limit = torch.where(anything, torch.full_like(limit, -torch.inf), limit)
        group, row = (~(maxima.float() < limit)).nonzero().unbind(1)
        pair, member = (~(scores[group, :, row].float() < limit[row, None])).nonzero().unbind(1)
        candidate = group[pair] * _GROUP + member
        real = candidate < self.num_clusters
        return row[pair][real], candidate[real]

    def _decide(
        self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor, wanted: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest candidates of the rows that are wanted (n,) bool, by their distances in float64."""
        distances = self._distances(rows, row, candidate, torch.float64)
        # By row, then distance, then index.
        order = candidate.argsort(stable=True)
        order = order[distances[order].argsort(stable=True)]
        order = order[row[order].argsort(stable=True)]
        candidate, distances = candidate[order], distances[order]
        first = torch.searchsorted(row[order], wanted.nonzero()[:, 0])
        chosen = first[:, None] + torch.arange(count, device=row.device)
        return candidate[chosen], distances[chosen]

    def _are_many(self, row: torch.Tensor, wanted: torch.Tensor, count: int) -> bool:
        """Whether a product in float32 is the quicker way to fewer pairs."""
        return len(row) > _MANY_CANDIDATES * count * int(wanted.sum()) and self._finer is not self

    def _narrowed(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = [self._finer.nearest(part, count) for part in rows.split(max(1, (1 << 20) // self.num_clusters))]
        return torch.cat([labels for labels, _ in found]), torch.cat([distances for _, distances in found])

    def _distances(
        self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Squared distances of pairs (P,), computed in float32 or float64."""
        size = max(1, _PAIR_VALUES[rows.device.type] // self._dim)
        parts = [
            rows[of].to(dtype).sub_(self._centroids[to]).square_().sum(dim=1)
            for of, to in zip(row.split(size), candidate.split(size), strict=True)
        ]
        return torch.cat(parts)


def tile_size(num_clusters: int) -> int:
    """The centroids that are searched at a time."""
    return min(num_clusters, _TILE)


def block_rows(num_clusters: int, device: str) -> int:
    """The vectors of one block, at most: so many that all their scores stay near the units that compute them."""
    least, most = _BLOCK_ROWS[device]
    rows = max(least, min(most, _BLOCK_SCORES[device] // tile_size(num_clusters)))
    # Whole multiples, or blocks would be filled up with rows of nothing.
    return rows if rows < _HEIGHT_MULTIPLE else rows // _HEIGHT_MULTIPLE * _HEIGHT_MULTIPLE


def _up_to(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@contextmanager
def full_precision() -> Iterator[None]:
    """Products that keep the bound, whatever the user allows others: float32 in float32, and sums in float32.

    The settings are those of the whole process: the first search that begins sets them, the last that ends restores.
    """
    with _searching:
        _under_way.append(None)
        if len(_under_way) == 1:
            _allowed[:] = _set_precision(*_IN_FULL)
    try:
        yield
    finally:
        with _searching:
            _under_way.pop()
            if not _under_way:
                _set_precision(*_allowed)


_IN_FULL = ("ieee", "ieee", False)
_searching = threading.Lock()
_under_way: list[None] = []
_allowed: list[Any] = []


def _set_precision(processor: str, card: str, reduced: bool) -> list[Any]:
    """Sets what may be rounded on a processor and on a GPU, and gives what it was before."""
    cuda, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [mkldnn.fp32_precision, cuda.fp32_precision, cuda.allow_bf16_reduced_precision_reduction]
    mkldnn.fp32_precision, cuda.fp32_precision = processor, card
    cuda.allow_bf16_reduced_precision_reduction = reduced
    return before


@functools.lru_cache
def fast_product_type(device: str) -> torch.dtype:
    """The type whose matrix product is the faster one here: bfloat16 where there are units for it, else float32.

    Measured, once per process; it takes some milliseconds. It decides on time and on nothing else.
    """
    seconds = {dtype: _seconds_of_product(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _seconds_of_product(device: str, dtype: torch.dtype, size: int = 512) -> float:
    operand = torch.ones(size, size, device=device).to(dtype)
    best = math.inf
    for _ in range(4):
        begun = time.perf_counter()
        product = operand @ operand
        float(product[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - begun)
    return best
