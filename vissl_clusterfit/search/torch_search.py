"""Exact search of nearest centroids with the matrix units of a processor or a GPU.

A matrix product in few bits gives every score at once. A bound on its rounding (``error_bounds.py``) says which
centroids can be the nearest; where more than one can, the distances are computed from differences in float64. So
labels are those of exact arithmetic on the float32 vectors, to within the last bits of float64, ties to the lower
index: they do not depend on the product type, the size of a block, the number of threads or processes, the order in
which a unit adds, or the machine. A card gives the labels of a processor, and the distances, to the bit
(``differences.py``).

Legend: n rows of a block, D dimensions, K centroids.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.search.neighbourhoods import BEST_ROWS
from vissl_clusterfit.search.protocol import Rows
from vissl_clusterfit.search.threads import one_thread, parallel_map
from vissl_clusterfit.search.tile import FEWEST_ROWS, Tile, block_rows, tile_size

Result = TypeVar("Result")


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
        size = tile_size(self.num_clusters)
        with one_thread():  # short operations, in which threads would mostly wait for each other
            self._tiles = [(low, Tile(rows[low : low + size], dtype)) for low in range(0, self.num_clusters, size)]

    @property
    def num_rows(self) -> int:
        """Several near each reference point (``neighbourhoods.py``), where such are used."""
        return BEST_ROWS if any(tile.leaves_out for _, tile in self._tiles) else 0

    @property
    def card(self) -> torch.device | None:
        """The device, where that is a card: it takes tensors on it, too."""
        return None if self._device.type == "cpu" else self._device

    def labels(self, rows_nD: Rows) -> Rows:
        """The nearest centroids of (n, D) float32, as (n,) int64; see the module for what is exact."""
        if len(self._tiles) > 1:
            return self.nearest(rows_nD)[0][:, 0]
        _, tile = self._tiles[0]
        return _like(rows_nD, torch.cat(self._of_blocks(tile.labels, rows_nD)))

    def nearest(self, rows_nD: Rows, count: int = 1) -> tuple[Rows, Rows]:
        """The ``count`` nearest centroids of (n, D) float32, nearest first, and squared distances to them.

        Returns:
            Centroids (n, count) int64 and distances (n, count) float32.

        Raises:
            DataError: a distance overflows float32.
        """
        labels, distances = zip(*self._of_blocks(lambda rows: self._nearest(rows, count), rows_nD), strict=True)
        result = torch.cat(distances)
        if not torch.isfinite(result).all():
            raise DataError(
                "Features are too large: their squared distances overflow float32. Set "
                "config.CLUSTERFIT.FEATURES.NORMALIZE=true, or scale them down."
            )
        return _like(rows_nD, torch.cat(labels)), _like(rows_nD, result)

    def _nearest(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        for low, tile in self._tiles:
            labels, distances = tile.nearest(rows, min(count, tile.num_clusters))
            if len(self._tiles) > 1:  # they are put in order with those of other tiles
                row = torch.arange(len(rows), device=rows.device).repeat_interleave(labels.shape[1])
                distances = tile.distances(rows, row, labels.flatten()).view_as(labels)
            found.append((labels + low, distances))
        labels, distances = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        if len(found) > 1:
            order = distances.sort(dim=1, stable=True).indices[:, :count]  # tiles are in the order of their indices
            labels, distances = labels.gather(1, order), distances.gather(1, order)
        return labels, distances.float()

    def _of_blocks(self, work: Callable[[torch.Tensor], Result], rows_nD: np.ndarray | torch.Tensor) -> list[Result]:
        """``work`` of the rows, block by block, on the device."""
        rows = rows_nD if isinstance(rows_nD, torch.Tensor) else _as_tensor(rows_nD)
        with full_precision():
            if self._device.type == "cpu":
                return parallel_map(work, rows.split(self._rows_of_a_thread(len(rows))))
            # Blocks of the same size: a short one is waited for as often as a long one.
            num_blocks = max(1, -(-len(rows) // block_rows(self.num_clusters, self._device.type)))
            size = max(1, -(-len(rows) // num_blocks))
            return [work(block.to(self._device)) for block in rows.split(size)]

    def _rows_of_a_thread(self, num_rows: int) -> int:
        """So many rows at a time, of so many, or of a block."""
        most = self.num_rows or block_rows(self.num_clusters, "cpu")
        return max(FEWEST_ROWS, min(most, -(-num_rows // torch.get_num_threads())))


def _as_tensor(rows_nD: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows_nD, dtype=np.float32))


def _like(rows_nD: Rows, found: torch.Tensor) -> Rows:
    """What was found on a device: in memory, where the rows were an array."""
    return found if isinstance(rows_nD, torch.Tensor) else found.cpu().numpy()


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
    operands = [torch.ones(512, 512, device=device).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    # In turns: other work on the machine comes and goes.
    seconds = [[_seconds_of_product(operand) for operand in operands] for _ in range(6)]
    best = [min(of) for of in zip(*seconds, strict=True)]
    return operands[best.index(min(best))].dtype


def _seconds_of_product(operand: torch.Tensor) -> float:
    begun = time.perf_counter()
    product = operand @ operand
    float(product[0, 0])  # waits for a GPU
    return time.perf_counter() - begun
