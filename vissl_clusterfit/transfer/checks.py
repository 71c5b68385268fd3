"""What every benchmark on features asks of its input."""

from __future__ import annotations

from typing import Any

import numpy as np

from vissl_clusterfit.errors import DataError, problem


def check_features(first: Any, first_name: str, second: Any, second_name: str) -> None:
    """Refuses two sets of features, NumPy arrays or tensors, that are empty or do not fit each other.

    Raises:
        DataError: one is empty or not 2-dimensional, or their dimensions differ.
    """
    for name, features in ((first_name, first), (second_name, second)):
        if features.ndim != 2 or 0 in features.shape:
            found = f"shape {tuple(features.shape)}"
            raise DataError(problem(name, found=found, allowed="(samples, dim) with at least one of each"))
    if first.shape[1] != second.shape[1]:
        found = f"{second.shape[1]} dimensions"
        raise DataError(problem(second_name, found=found, allowed=f"{first.shape[1]}, as in {first_name}"))


def validate_labels(labels: Any, count: int, name: str) -> np.ndarray:
    """Labels, a NumPy array or a tensor, as int64 of shape ``(count,)``.

    Raises:
        DataError: another number of them, no whole numbers, or negative ones.
    """
    array = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    if array.shape != (count,):
        raise DataError(problem(name, found=f"shape {array.shape}", allowed=f"({count},), one per sample"))
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(problem(name, found=f"dtype {array.dtype}", allowed="whole numbers"))
    if (array < 0).any():
        remedy = "-1 marks samples that could not be read: leave them out."
        raise DataError(problem(name, found=int(array.min()), allowed="numbers from 0", remedy=remedy))
    return array.astype(np.int64)
