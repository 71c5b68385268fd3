"""MATLAB files of publishers, with one message for what they lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import DataError


def read_matlab(path: Path, *names: str) -> list[np.ndarray]:
    """The variables ``names`` of a file, one-dimensional; records have their fields as attributes.

    Raises:
        DataError: the file is damaged or missing, or lacks one of them.
    """
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=names)
    except Exception as error:  # of many types, for a file that is damaged
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}.") from None
    lacking = [name for name in names if name not in content]
    if lacking:
        raise DataError(f"{path}: found no {', '.join(lacking)}; expected: {', '.join(names)}.")
    return [np.atleast_1d(content[name]) for name in names]


def column(path: Path, records: np.ndarray, field: str) -> list[Any]:
    """One field of all records.

    Raises:
        DataError: a record lacks it.
    """
    try:
        return [getattr(record, field) for record in records]
    except AttributeError:
        raise DataError(f"{path}: found records without {field}; expected it in each.") from None
