"""Means of a few values, of seeds or of draws, with what is known of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and how far the true one may be from it; NaN where one value says nothing of that."""

    mean: float
    half_width: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is beyond doubt, at the given confidence."""
        return abs(self.mean) > self.half_width


def student_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean of independent values: mean ± t(0.975, n - 1) · s / sqrt(n).

    s is their sample standard deviation (Student, "The Probable Error of a Mean", Biometrika 1908).
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan)
    from scipy.stats import t

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(len(values)))
