"""Text lists of publishers: one entry a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.storage.untrusted import require_regular


def read_lines(path: Path) -> list[str]:
    """The lines that are not empty.

    Raises:
        DataError: the file is missing, no text, or has none.
    """
    try:
        require_regular(path)
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected there: a list of the publisher, one entry a line.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from None
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path} is empty; expected: one entry a line.")
    return lines


def is_number(text: str) -> bool:
    """Whether a text is a whole number from 0, of at most 18 digits: of 64 bits."""
    return text.isdecimal() and len(text) <= 18


def read_numbered(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and the whole number from 0 behind each, int64: the lines of ``<name> <number>``.

    Raises:
        DataError: a line is none of that.
    """
    names, numbers = [], []
    for line in read_lines(path):
        name, _, number = line.rpartition(" ")
        if not name or not is_number(number):
            raise DataError(f"{path}: found the line {line!r}; expected: <name> <number of the class, from 0>.")
        names.append(name.strip())
        numbers.append(int(number))
    return names, np.array(numbers, dtype=np.int64)


def require_below(labels: np.ndarray, num_classes: int, path: Path) -> None:
    """Refuses labels beyond the classes.

    Raises:
        DataError: naming the file that has them.
    """
    if labels.max() >= num_classes:
        raise DataError(f"{path}: found the class {labels.max()}; expected: 0 to {num_classes - 1}.")
