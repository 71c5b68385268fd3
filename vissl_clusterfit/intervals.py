"""How sure a mean of a few figures is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t


def half_width_95(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean: t * s / sqrt(n).

    s is the sample standard deviation and t the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom
    (Student, "The Probable Error of a Mean", Biometrika 1908). It holds for independent values with normal errors.

    Args:
        values: two or more.

    Raises:
        ValueError: fewer.
    """
    if len(values) < 2:
        raise ValueError(f"an interval takes two values or more, found {len(values)}")
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
