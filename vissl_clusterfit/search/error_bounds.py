"""How far a matrix product in few bits can be from the truth: the bound that makes labels certain.

For a row x and centroids c, both less a common shift m, nearest by distance is largest by the score

    T = (x - m)·(c - m) - |c - m|² / 2,

as |x - c|² = |x - m|² - 2T. The matrix units compute it from operands that are rounded to a *product type* (bfloat16,
float32), add up in float32, and round the result to the product type again: what they give is G. With x' and c' for the
shifted vectors in float32, x_b and c_b for the rounded ones, and u for the unit roundoff of float32,

    |T - G| <= |x' - x_b|·|c'| + |x_b|·|c' - c_b|           the operands, by Cauchy and Schwarz; residuals are measured
             + 4u(D + 3)(|x_b|·|c_b| + |c'|²)               the additions, in any order, also by units that truncate
             + 2u(|x'|·|c'|)                                the shift itself
             + unit roundoff of the product type · |G|      the result.

(N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, sections 2.2 and 3.1.) Norms are those of the largest
centroid, so that a row has one bound. Everything is enlarged a little for the rounding of the bound itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

_U = 2.0**-24
_ENLARGED = 1 + 2.0**-8
# What squares below the smallest float32 may take from a norm, in units of the largest centroid.
_VANISHED = 2.0**-50
# Numbers of the rows that a processor rounds at a time.
_PART_VALUES = 1 << 18
# Below it, float32 squares vanish.
_VANISHED_SQUARE = 1e-30
#: Rows that are so much longer than the longest centroid are decided without a matrix product.
LONGEST_ROW = 2.0**40


@dataclass(frozen=True)
class RoundedOperand:
    """How long vectors less the common shift are, and what they lost when they were rounded to the product type.

    Attributes:
        norms: (n,) float32, at least the norms of the vectors.
        residuals: (n,) float32, at least the norms of the differences.
    """

    norms: torch.Tensor
    residuals: torch.Tensor

    @functools.cached_property
    def largest(self) -> tuple[float, float]:
        """Of both, for which a card is waited for once."""
        longest, lost = torch.stack([self.norms.max(), self.residuals.max()]).cpu()
        return float(longest), float(lost)


def shifted(rows: torch.Tensor, shift: torch.Tensor, scale: float, operand: torch.Tensor) -> RoundedOperand:
    """Rows (n, D) float32 less a shift (D,) float32, times a power of two, rounded into an operand (n, D)."""
    if rows.device.type != "cpu":
        return _shifted(rows, shift, scale, operand)
    # In parts that stay in the processor's cache: a copy of all rows would be memory for nothing.
    size = max(1, _PART_VALUES // rows.shape[1])
    parts = [_shifted(part, shift, scale, of) for part, of in zip(rows.split(size), operand.split(size), strict=True)]
    return RoundedOperand(torch.cat([part.norms for part in parts]), torch.cat([part.residuals for part in parts]))


def _shifted(rows: torch.Tensor, shift: torch.Tensor, scale: float, operand: torch.Tensor) -> RoundedOperand:
    exact = rows - shift
    if scale != 1.0:
        exact.mul_(scale)
    operand.copy_(exact)
    norms = _norms(exact)
    if operand.dtype == torch.float32:
        return RoundedOperand(norms, norms * (2 * _U) + _VANISHED)
    return RoundedOperand(norms, _norms(exact.sub_(operand)) + norms * (2 * _U))


def _norms(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1) * _ENLARGED + _VANISHED


def score_error(rows: RoundedOperand, centroids: RoundedOperand, dim: int) -> torch.Tensor:
    """The bound without the rounding of the result, (n,) float32."""
    longest, lost = centroids.largest
    norms = rows.norms + rows.residuals
    products = rows.residuals * longest + norms * lost
    additions = norms * (longest + lost) + longest**2
    return (products + additions * (4 * _U * (dim + 3)) + norms * (4 * _U * longest)) * _ENLARGED


def score_threshold(best: torch.Tensor, error: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Computed scores below this are certainly less than that of the best, whose computed score is ``best``.

    Args:
        best: (n,) of the product type.
        error: (n,) float32, of :func:`score_error`.
        dtype: the product type.

    Returns:
        (n,) float32; minus infinity where nothing is certain.
    """
    return threshold_for(least_score(best, error, dtype), error, dtype)


def least_score(computed: torch.Tensor, error: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What computed scores (n,) of the product type are at least in truth, (n,) float32."""
    computed = computed.float()
    # The 4u are for the rounding of these lines themselves.
    return computed - computed.abs() * (_roundoff(dtype) + 4 * _U) - error


def threshold_for(least: torch.Tensor, error: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Computed scores below this are certainly those of less than ``least`` in truth.

    Args:
        least: (n,) float32.
        error: (n,) float32, of :func:`score_error`.
        dtype: the product type.

    Returns:
        (n,) float32; minus infinity where nothing is certain.
    """
    limit = least - error
    up, down = 1 + _roundoff(dtype), 1 - _roundoff(dtype)
    limit = torch.where(limit >= 0, limit / up * (1 - 4 * _U), limit / down * (1 + 4 * _U))
    return torch.where(torch.isfinite(limit), limit, torch.full_like(limit, -torch.inf))


def _roundoff(dtype: torch.dtype) -> float:
    return 2.0**-8 if dtype == torch.bfloat16 else _U


def certainly_farther(least: torch.Tensor, dim: int) -> torch.Tensor:
    """Squared distances above this are certainly larger than the least of their row, both from float32 differences.

    Each is right to within a share of (D + 3)u of itself: there is no cancellation.

    Args:
        least: (n,) float32.
        dim: D.
    """
    return least * (1 + 4 * _U * (dim + 4)) + _VANISHED_SQUARE


def split_float64(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers (n,) float64 as sums of three of the product type, (n, 3)."""
    parts = []
    for _ in range(3):
        parts.append(values.to(dtype))
        values = values - parts[-1].double()
    return torch.stack(parts, dim=1)
