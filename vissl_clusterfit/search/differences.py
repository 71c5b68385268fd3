"""Squared distances whose order, and whose float32, are the same on a processor and on a card, to the last bit.

A squared distance is the sum of D terms, squares of differences of float32 numbers, each computed in float64. Terms are
the same everywhere: a difference and a square are one operation each, rounded to nearest as IEEE 754 says. (A card may
compute a - b as a + (-1)·b in one fused operation: the product is exact, so that nothing changes.) Their sum is not: it
depends on the order of the additions, which differs from one unit to another by up to (D - 1)u of it, u = 2^-53.

So where two distances of a row, or a distance and a number half-way between two of float32, are within that of each
other, the sum is made once more from parts that float64 adds without rounding, in any order: multiples of a grid that
is set by the largest term, and of a finer one for what they leave (Demmel and Nguyen, "Parallel Reproducible
Summation", 2015). It is within 2u of the truth. Where distances are farther apart than the bound, their order is that
of these sums, too. Hence each unit comes to the order of these sums, whether or not it had to make them, and equal ones
to the order of the indices.

Legend: D dimensions, P pairs of a row and a candidate.
"""

from __future__ import annotations

import math

import torch

_BITS = 52


def depend_on_the_order(row: torch.Tensor, distances: torch.Tensor, dim: int) -> torch.Tensor:
    """Which of the sums (P,) float64 of rows (P,), by row and then by size, must be made once more: (P,) bool."""
    share = (dim + 4) * 2.0**-51  # four times the bound, which this line and the next are rounded within
    away = distances * share
    close = torch.zeros_like(row, dtype=torch.bool)
    touching = (row[1:] == row[:-1]) & (distances[1:] - distances[:-1] <= away[1:])
    close[1:] |= touching
    close[:-1] |= touching
    return close | ((distances - away).float() != (distances + away).float())


def plain_sum(terms: torch.Tensor) -> torch.Tensor:
    """Sums (P,) of terms (P, D), in whatever order."""
    return terms.sum(dim=1)


def same_sum(terms: torch.Tensor) -> torch.Tensor:
    """Sums (P,) float64 of terms (P, D) float64 of 0 and more, finite, which no order changes."""
    bits = _BITS - max(1, math.ceil(math.log2(max(2, terms.shape[1]))))
    largest = terms.amax(dim=1, keepdim=True)
    mantissa = largest.frexp().mantissa
    # The power of two above the largest, by a division that is exact: a card's powers need not be.
    above = torch.where(largest > 0, largest / mantissa, torch.ones_like(largest))
    magic = above * math.ldexp(1.5, _BITS - bits)  # adding and subtracting it leaves a multiple of above * 2^-bits
    coarse = (terms + magic).sub_(magic)
    fine = terms - coarse
    magic = magic * math.ldexp(1.0, -bits)
    fine = fine.add_(magic).sub_(magic)
    return coarse.sum(dim=1) + fine.sum(dim=1)
