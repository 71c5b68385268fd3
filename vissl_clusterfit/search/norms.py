"""Squared norms in float32 that are the same for a row wherever it stands."""

from __future__ import annotations

import numpy as np


def row_squares(rows_nD: np.ndarray) -> np.ndarray:
    """The squared norms of (n, D) float32, as (n,) float32."""
    if len(rows_nD) == 1:  # numpy sums a row that is alone in another order, where D is larger than its buffer
        return row_squares(rows_nD.repeat(2, axis=0))[:1]
    return np.einsum("nd,nd->n", rows_nD, rows_nD)
