"""Features of an array in memory, or mapped from disk, used as a feature store is; nothing of them is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.features.rows_files import FLOATS
from vissl_clusterfit.features.sample_list import dataset_inputs, hash_samples
from vissl_clusterfit.features.sample_names import NameList, list_samples
from vissl_clusterfit.features.store import FeatureStore, Shard
from vissl_clusterfit.storage import artifacts

_BLOCK_BYTES = 1 << 24
_SHOWN = 5


class ArrayFeatures(FeatureStore):
    """Rows with the interface of a :class:`FeatureStore`: what a codebook or labels can be made from.

    They are known by the hash of their values, so that labels say which features they are of.

    Args:
        rows: (N, D) float16, float32 or float64; values that float32 does not have are refused.
        names: of the samples; None for their numbers.

    Raises:
        DataError: rows are not finite, or not what they must be; or their number is not that of the names.
    """

    def __init__(self, rows: np.ndarray, names: Iterable[str] | None = None) -> None:
        require_rows(rows, "features")
        self._given = None if names is None else list(map(str, names))
        self._samples, self._list = named_samples(self._given, len(rows), "features")
        digest = hashlib.sha256()
        for _, block in row_blocks(rows):
            digest.update(np.ascontiguousarray(block).data)
        require_finite([("features", rows)])
        self._array = rows
        self.folder = Path("(an array)")
        self.inputs = {"dataset": dataset_inputs(self._samples), "rows": digest.hexdigest(), "dtype": str(rows.dtype)}
        self.num_samples, self.dim = rows.shape
        self.dtype = str(rows.dtype)
        self.manifest = {"unreadable": []}
        self.unreadable = np.empty(0, dtype=np.int64)
        self.content_hash = artifacts.content_hash(self.inputs)
        self._shards = [Shard(0, self.num_samples)]
        self._starts = np.zeros(1, dtype=np.int64)

    def _rows(self, shard: Shard) -> np.ndarray:
        return self._array

    def _is_own(self, shard: Shard) -> bool:
        return False

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,)."""
        return self._samples

    @property
    def names(self) -> list[str] | None:
        """The names, if they were given."""
        return self._given

    def write_names(self, folder: Path) -> bool:
        """Writes the names into the folder of an artefact of the same samples, if they were given."""
        if self._list is not None:
            self._list.write(folder)
        return self._list is not None


def named_samples(
    names: Iterable[str] | None, num_rows: int, what: str, *, with_sizes: bool = False
) -> tuple[np.ndarray, NameList | None]:
    """The sample list of rows, and the names where there are any.

    Args:
        names: of the samples; None for their numbers.
        num_rows: N.
        what: has the rows, for messages.
        with_sizes: see :class:`~vissl_clusterfit.features.sample_names.NameList`.

    Raises:
        DataError: there is another number of names, or one occurs twice.
    """
    if names is None:
        return hash_samples(map(str, range(num_rows))), None
    samples, kept = list_samples(map(str, names), with_sizes=with_sizes)
    if len(samples) != num_rows:
        raise DataError(
            problem(
                "names",
                found=f"{len(samples)} names for {num_rows} rows in {what}",
                allowed="one name for each row, in the order of the rows",
            )
        )
    num_twice = len(samples) - len(np.unique(samples))
    if num_twice:
        raise DataError(
            problem("names", found=f"{num_twice} names that occurred before", allowed="a different name for each row")
        )
    return samples, kept


def require_rows(rows: np.ndarray, what: str) -> None:
    """Checks shape and type.

    Raises:
        DataError: they are not those of features.
    """
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.name not in FLOATS or not rows.dtype.isnative:
        allowed = f"(N, D), one row or more, of {', '.join(FLOATS)}"
        raise DataError(problem(what, found=f"{rows.shape} of {rows.dtype}", allowed=allowed))


def row_blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """A few rows at a time, with the number of the first."""
    size = max(1, _BLOCK_BYTES // max(1, rows.shape[1] * rows.itemsize))
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def require_finite(parts: Iterable[tuple[str, np.ndarray]]) -> None:
    """Checks that no value is NaN, or infinite in float32.

    Args:
        parts: consecutive rows, each with what holds them.

    Raises:
        DataError: the rows are counted, and the first ones named.
    """
    bad: list[int] = []
    places: list[str] = []
    num_bad, first_row = 0, 0
    for what, rows in parts:
        for start, block in row_blocks(rows):
            with np.errstate(over="ignore", invalid="ignore"):
                block = block.astype(np.float32, copy=False)
                if np.isfinite(block.sum()):  # which no NaN or infinity leaves so
                    continue
            here = np.flatnonzero(~np.isfinite(block).all(axis=1))
            num_bad += len(here)
            bad += (first_row + start + here[: _SHOWN - len(bad)]).tolist()
            places += [what] if len(here) and what not in places[:1] else []
        first_row += len(rows)
    if num_bad:
        shown = ", ".join(map(str, bad)) + (", …" if num_bad > len(bad) else "")
        raise DataError(
            f"{places[0]}: {num_bad} of {first_row} rows are NaN, or infinite in float32: rows {shown}. Leave these "
            "samples out, with their names, or compute their features again."
        )
