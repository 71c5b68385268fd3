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
    require("pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        require_regular(path)
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            columns = [group.column(number) for group in groups for number in range(group.num_columns)]
            unpacked = sum(max(each.num_values * _BYTES_OF_A_VALUE, each.total_uncompressed_size) for each in columns)
            require_no_bomb(unpacked, path.stat().st_size)
            return file.read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None
