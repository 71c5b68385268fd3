"""Columns of labels that came with images, as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vissl_clusterfit.errors import DataError, problem

#: What a column of paths is called, and one of labels, where none is named; in lower case.
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path"),
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "y")


def as_labels(columns: Sequence[tuple[str, Any]], num_samples: int, place: str) -> np.ndarray:
    """Columns of labels as int64 (N,), or (N, L) of several; one of texts as such, (N,).

    Args:
        columns: each with its name: an array or a list, of whole numbers or of texts; texts may be whole numbers.
        num_samples: N.
        place: where they are, for messages.

    Raises:
        DataError: there are more or fewer, some are missing, they are neither, or several columns are of texts.
    """
    arrays = [(name, _as_array(values, f"{place}: {name}", num_samples)) for name, values in columns]
    if len(arrays) == 1:
        return arrays[0][1]
    for name, array in arrays:
        if array.dtype.kind == "U":
            allowed = "whole numbers where there are several columns of labels"
            raise DataError(problem(f"{place}: {name}", found=f"texts, such as {str(array[0])!r}", allowed=allowed))
    return np.column_stack([array for _, array in arrays])


def _as_array(values: Any, setting: str, num_samples: int) -> np.ndarray:
    allowed = "a whole number or a text for each sample"
    if not isinstance(values, np.ndarray):
        missing = [number for number, value in enumerate(values) if value is None or value == ""]
        if missing:
            found = f"labels for {len(values) - len(missing)} of {len(values)} samples; sample {missing[0]} has none"
            raise DataError(problem(setting, found=found, allowed=allowed))
        try:
            values = np.array(values)
        except (ValueError, OverflowError) as error:
            raise DataError(problem(setting, found=str(error), allowed=allowed)) from None
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape[:1] != (num_samples,):
        raise DataError(problem(setting, found=f"labels of shape {array.shape}", allowed=f"{num_samples} labels"))
    if array.dtype.kind == "U" and array.ndim == 1:
        return _numbers_in(array)
    if array.dtype.kind not in "biu" or array.ndim > 1:
        raise DataError(problem(setting, found=f"labels of {array.dtype} of shape {array.shape}", allowed=allowed))
    return array.astype(np.int64)


def _numbers_in(texts: np.ndarray) -> np.ndarray:
    """Texts that are all whole numbers, as such; others as they are."""
    try:
        numbers = np.array([int(text) for text in texts.tolist()], dtype=np.int64)
    except (ValueError, OverflowError):
        return texts
    # "007" is a name: two that differ must not become one.
    return numbers if numbers.astype(str).tolist() == [text.strip() for text in texts.tolist()] else texts


def find_column(names: Sequence[str], wanted: str, known: Sequence[str], setting: str, what: str) -> str | None:
    """The column that is wanted, or else the only one with a name that is known; None if there is none or several.

    Raises:
        DataError: the one that is wanted is not there.
    """
    if wanted:
        if wanted not in names:
            raise DataError(problem(setting, found=f"no {what} {wanted!r}", allowed=" | ".join(names)))
        return wanted
    found = [name for name in names if name.strip().lower() in known]
    return found[0] if len(found) == 1 else None
