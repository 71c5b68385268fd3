"""Neighbouring rows of a mapped array, read from its file: what is mapped counts as memory of the process."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from vissl_clusterfit.errors import ArtifactError

# Of rows that are read at a time, and stay in the cache while they are copied.
_PIECE_BYTES = 1 << 20


def copy_rows(rows: np.ndarray, start: int, out: np.ndarray) -> None:
    """Copies the rows from ``start`` on, as many as there are in ``out``.

    Args:
        rows: (N, D), in memory, or mapped from a file, which is opened by its name once more.
        start: the first of them.
        out: (n, D), of the same or another dtype, written to.

    Raises:
        ArtifactError: the file has become shorter.
    """
    # A view of what is mapped does not know where in the file it is; rows in columns' order are not neighbours there.
    if not (isinstance(rows, np.memmap) and isinstance(rows.base, mmap.mmap) and rows.flags.c_contiguous):
        out[:] = rows[start : start + len(out)]
        return
    row_bytes, dim = rows.strides[0], rows.shape[1]
    size = max(1, _PIECE_BYTES // row_bytes)
    with Path(rows.filename).open("rb") as file:
        file.seek(rows.offset + start * row_bytes)
        for low in range(0, len(out), size):
            part = out[low : low + size]
            read = np.fromfile(file, rows.dtype, part.size)
            if len(read) < part.size:
                raise ArtifactError(f"{rows.filename} became shorter while it was read.")
            part[:] = read.reshape(-1, dim)
