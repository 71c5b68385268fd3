"""Parquet files of users, read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.storage.untrusted import require_no_bomb, require_regular

_BYTES_OF_A_VALUE = 8


def read_table(path: Path) -> Any:
    """The ``pyarrow.Table`` of a file.

    Raises:
        DataError: it is damaged, or holds one value again and again to fill the memory.
        MissingDependencyError: PyArrow is not installed.
    """
    require_table(path)
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None


def require_table(path: Path) -> None:
    """Looks at what a file says of itself, before it is read.

    Raises:
        DataError, MissingDependencyError: as :func:`read_table`.
    """
    require("pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        require_regular(path)
        found = pyarrow.parquet.read_metadata(path)
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        unpacked = sum(max(each.num_values * _BYTES_OF_A_VALUE, each.total_uncompressed_size) for each in columns)
        require_no_bomb(unpacked, path.stat().st_size)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None
