"""Products of vectors of whole numbers, from -127 to 127: the same on any machine, as no sum of them is rounded.

A processor adds up products of 8 bits at several times the rate of float32 (AVX-512 VNNI, AMX). Where it has no units
for them, float32 does it: there whole numbers are exact up to 2^24, which so many dimensions at a time cannot exceed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

#: The largest number, in absolute value.
LARGEST = 127
# Dimensions whose sum of products is exact in float32, in any order.
_EXACT_DIMS = (1 << 24) // LARGEST**2

# Of PyTorch: 2.9 gave wrong products of few vectors, now and then.
_FIRST_EXACT = (2, 10)

#: From (n, D) and (m, D) int8 to (n, m) int32, which are written into a tensor of that shape.
Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]


def integer_products(rows_nD: torch.Tensor, others_mD: torch.Tensor, out_nm: torch.Tensor) -> None:
    """Writes the products of (n, D) int8 and (m, D) int8 into (n, m) int32."""
    _fast_product()(rows_nD, others_mD, out_nm)


def _in_8_bits(rows: torch.Tensor, others: torch.Tensor, out: torch.Tensor) -> None:
    torch._int_mm(rows, others.T, out=out)


def _in_float32(rows: torch.Tensor, others: torch.Tensor, out: torch.Tensor) -> None:
    for low in range(0, rows.shape[1], _EXACT_DIMS):
        of = slice(low, low + _EXACT_DIMS)
        product = rows[:, of].float() @ others[:, of].float().T
        out.add_(product.int()) if low else out.copy_(product)


@functools.lru_cache
def _fast_product() -> Product:
    """The faster one here, measured once per process. It decides on time and on nothing else."""
    if not _is_exact_in_8_bits():
        return _in_float32
    rows, others, found = _extremes(256), _extremes(512), torch.empty(256, 512, dtype=torch.int32)
    ways = (_in_8_bits, _in_float32)
    # In turns: other work on the machine comes and goes.
    seconds = [[_seconds_of(way, rows, others, found) for way in ways] for _ in range(6)]
    best = [min(of) for of in zip(*seconds, strict=True)]
    return ways[best.index(min(best))]


def _is_exact_in_8_bits() -> bool:
    """Whether it is, on this processor: units before AVX-512 VNNI add up pairs in 16 bits, which is too few."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < _FIRST_EXACT:
        return False
    rows, (found, expected) = _extremes(64), (torch.empty(64, 64, dtype=torch.int32) for _ in range(2))
    _in_8_bits(rows, rows, found)
    _in_float32(rows, rows, expected)
    return torch.equal(found, expected)


def _extremes(number: int) -> torch.Tensor:
    """(number, 512) int8 of the largest numbers: rows of one sign, and rows whose signs change in pairs."""
    found = torch.full((number, 512), LARGEST, dtype=torch.int8)
    found[1::4] = -LARGEST
    found[2::4, ::2] = -LARGEST
    found[3::4, ::4] = -LARGEST
    return found


def _seconds_of(way: Product, rows: torch.Tensor, others: torch.Tensor, out: torch.Tensor) -> float:
    begun = time.perf_counter()
    way(rows, others, out)
    return time.perf_counter() - begun
