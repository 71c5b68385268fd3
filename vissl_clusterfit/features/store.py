"""``FeatureStore``: one array per contiguous range of data-set indices, rows in index order.

``features/writer.py`` makes one; ``features/extract.py`` fills it with arrays of its own, ``features/imports.py`` with
those of files elsewhere (``features/rows_files.py``).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from vissl_clusterfit.errors import ArtifactError, with_remedy
from vissl_clusterfit.features.mapped_rows import copy_rows
from vissl_clusterfit.features.remote_cache import LocalCopies
from vissl_clusterfit.features.rows_files import FLOATS, OpenRows, RowsFile
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.sample_names import copy_names, names_of, require_whole_names
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.storage.manifest_values import (
    HASHES,
    OBJECT,
    SHA256,
    TEXT,
    UNREADABLE,
    YES_OR_NO,
    Value,
    list_of,
    mapping_of,
    one_of,
    require_file_of,
    require_values,
    whole,
)
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.unchanged import require_unchanged

KIND = "feature_store"
UNREADABLE_FILE = "unreadable.npy"
_REMEDY = "Delete the folder and run the extraction again."
_SHARD_REMEDY = (
    f"Delete what is there of it, its .json, and {artifacts.MANIFEST_NAME}, and run the extraction again: it makes "
    "this shard alone."
)


@dataclass(frozen=True, order=True)
class Shard:
    """The rows ``[start, stop)`` of a data set."""

    start: int
    stop: int

    @property
    def rows_file(self) -> str:
        """The name of the array."""
        return f"rows-{self.start:012d}-{self.stop:012d}.npy"

    @property
    def done_file(self) -> str:
        """The name of the file that is written last, and says that the shard is done."""
        return f"rows-{self.start:012d}-{self.stop:012d}.json"


def split_into_shards(num_samples: int, shard_size: int, shard_rows: Sequence[int] | None = None) -> list[Shard]:
    """Contiguous ranges of indices that cover ``[0, num_samples)``.

    They are of ``shard_size`` indices, the last one shorter; or of ``shard_rows``, where a store names them.
    """
    if shard_rows is not None:
        stops = list(itertools.accumulate(shard_rows))
        if min(shard_rows, default=0) < 1 or stops[-1] != num_samples:
            raise ValueError(f"shards of {len(shard_rows)} sizes do not make {num_samples} samples")
        return [Shard(stop - rows, stop) for rows, stop in zip(shard_rows, stops, strict=True)]
    return [Shard(start, min(start + shard_size, num_samples)) for start in range(0, num_samples, shard_size)]


_VALUES: dict[str, Value] = {
    "num_samples": whole(),
    "shard_size": whole(1),
    "dtype": one_of(*FLOATS),
    "complete": YES_OR_NO,
}
_ROWS_FILE: dict[str, Value] = {"path": TEXT, "key": TEXT, "size": whole(), "mtime_ns": whole(most=1 << 63)}
_VALUES_WHEN_COMPLETE: dict[str, Value] = {
    "dim": whole(1),
    "sha256": HASHES,
    "num_unreadable": whole(),
    "unreadable": UNREADABLE,
    "content_hash": SHA256,
}
_MORE_VALUES: dict[str, Value] = {"shard_rows": list_of(whole(1), least=1), "rows_in": mapping_of(OBJECT)}


def require_store_values(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks types and ranges of what the manifest of a store says.

    Raises:
        ArtifactError: naming what is not allowed.
    """
    needed = _VALUES | (_VALUES_WHEN_COMPLETE if manifest.get("complete") else {})
    require_values(folder, manifest, needed, _VALUES_WHEN_COMPLETE | _MORE_VALUES, _REMEDY)
    for entry in manifest.get("rows_in", {}).values():
        require_values(folder, entry, _ROWS_FILE, {}, _REMEDY)


def require_done_values(path: Path, done: Mapping[str, Any]) -> None:
    """The same of what the file says that is written once a shard is done."""
    needed = {"sha256": SHA256, "dim": whole(1), "inputs": SHA256, "unreadable": mapping_of(TEXT)}
    require_values(path, done, needed, {"rows_in": OBJECT}, _SHARD_REMEDY)
    require_values(path, done.get("rows_in", {}), {}, _ROWS_FILE, _SHARD_REMEDY)
    if not all(index.isdecimal() and len(index) < 16 for index in done["unreadable"]):
        raise ArtifactError(f"{path} is damaged: an unreadable sample is no number. {_SHARD_REMEDY}")


def num_shards(manifest: Mapping[str, Any]) -> int:
    """How many shards a manifest says that there are."""
    shard_rows = manifest.get("shard_rows")
    return -(-manifest["num_samples"] // manifest["shard_size"]) if shard_rows is None else len(shard_rows)


def _require_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Holds what a manifest says against the sizes and the number of files, before anything is made of it."""
    # Shards are counted before there is a list of them.
    num_named = sum(name.startswith("rows-") for name in manifest["sha256"])
    if num_named != num_shards(manifest):
        raise ArtifactError(
            f"{folder}: the shards that its manifest names do not cover its {manifest['num_samples']} samples once. "
            f"{_REMEDY}"
        )
    require_file_of(folder / SAMPLES_FILE, manifest["num_samples"], 8, _REMEDY)


class FeatureStore:
    """Features of one split, complete, read by data-set index.

    Attributes:
        num_samples: rows, one per sample of the data set.
        dim: columns.
        dtype: how rows are kept, float16 or float32, in a file elsewhere float64, too; they are read as float32.
        inputs: what the features were made from: data set, teacher, layer, pooling, transforms.
        unreadable: int64, sorted: the samples that could not be read. Their rows are zeros. The manifest names the
            first of them with the reason.
        content_hash: of the inputs and of every shard; two stores with the same hash hold the same features.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.inputs: dict[str, Any] = manifest["inputs"]
        self.num_samples: int = manifest["num_samples"]
        self.dim: int = manifest["dim"]
        self.dtype: str = manifest["dtype"]
        self.manifest = manifest
        with with_remedy(_REMEDY):
            self.unreadable = artifacts.read_array(folder / UNREADABLE_FILE)
            require_unchanged(folder / UNREADABLE_FILE, manifest["sha256"].get(UNREADABLE_FILE))
        self.content_hash: str = manifest["content_hash"]
        self._shards = split_into_shards(self.num_samples, manifest["shard_size"], manifest.get("shard_rows"))
        self._starts = np.array([shard.start for shard in self._shards], dtype=np.int64)
        self._unchanged: set[Shard] = set()
        self._copies = LocalCopies() if as_remote(folder) else None
        self._elsewhere = {
            name: OpenRows(RowsFile.from_json(entry, manifest["sha256"][name]))
            for name, entry in dict(manifest.get("rows_in", {})).items()
        }

    @classmethod
    def open(cls, folder: Path, expected_inputs: Mapping[str, Any] | None = None) -> FeatureStore:
        """Opens a complete store.

        Raises:
            ArtifactError: it is missing, incomplete, of another shape than its manifest says, or made from other
                inputs than ``expected_inputs``.
        """
        manifest = artifacts.read_manifest(folder, KIND)
        if expected_inputs is not None:
            artifacts.require_same_inputs(folder, manifest["inputs"], expected_inputs)
        if not manifest.get("complete"):
            raise ArtifactError(
                f"{folder} is incomplete: its extraction has not finished. Run the extraction again "
                "(config.CLUSTERFIT.FEATURES.EXTRACT=true); it resumes where it stopped."
            )
        require_store_values(folder, manifest)
        _require_sizes(folder, manifest)
        try:
            store = cls(folder, manifest)
            store._check()
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / artifacts.MANIFEST_NAME} is damaged: {error!r}. {_REMEDY}") from None
        return store

    def _check(self) -> None:
        named = {name for name in self.manifest["sha256"] if name.startswith("rows-")}
        if named != {shard.rows_file for shard in self._shards}:
            raise ArtifactError(
                f"{self.folder}: the shards that its manifest names do not cover its {self.num_samples} samples once. "
                f"{_REMEDY}"
            )
        if (
            self._copies and not self._elsewhere
        ):  # to look into all shards would be to fetch them; each is checked when it is
            missing = sorted(named - names_in(self.folder))
            if missing:
                raise ArtifactError(f"{self.folder / missing[0]} is missing. {_SHARD_REMEDY}")
        else:
            for shard in self._shards:
                self._mapped(shard)
        indices, num_unreadable = self.unreadable, self.manifest["num_unreadable"]
        whole = indices.dtype == np.int64 and indices.shape == (num_unreadable,)
        if not whole or not (np.diff(indices, prepend=-1, append=self.num_samples) > 0).all():
            raise ArtifactError(
                f"{self.folder / UNREADABLE_FILE} must hold {num_unreadable} samples of the store as int64, ascending. "
                f"{_REMEDY}"
            )
        self._check_samples()

    def _check_samples(self) -> None:
        with with_remedy(_REMEDY):
            artifacts.read_array(self.folder / SAMPLES_FILE, shape=(self.num_samples,), dtype=np.uint64, mmap=True)
        require_whole_names(self.folder, self.manifest)

    def _mapped(self, shard: Shard) -> np.ndarray:
        path, expected = self.folder / shard.rows_file, (shard.stop - shard.start, self.dim)
        if shard.rows_file in self._elsewhere:
            return self._elsewhere[shard.rows_file].rows(expected, self.dtype)
        with with_remedy(_SHARD_REMEDY):
            if self._copies and (remote := as_remote(path)):
                rows = self._copies.array(remote, self.manifest["sha256"][shard.rows_file])
            else:
                rows = artifacts.read_array(path, mmap=True)
            artifacts.require_array(path, rows, expected, self.dtype)
        return rows

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,), memory-mapped."""
        with with_remedy(_REMEDY):
            require_unchanged(self.folder / SAMPLES_FILE, self.manifest["sha256"].get(SAMPLES_FILE))
        return artifacts.read_array(self.folder / SAMPLES_FILE, mmap=True)

    @functools.cached_property
    def names(self) -> list[str] | None:
        """The name of each sample; None where names are not kept.

        Raises:
            ArtifactError: they are damaged, or of other samples.
        """
        return names_of(self.folder)

    def write_names(self, folder: Path) -> bool:
        """Writes the names into the folder of another artefact of the same samples; whether there are any."""
        return copy_names(self.folder, folder)

    def _rows(self, shard: Shard) -> np.ndarray:
        """The rows of a shard, whose file is checked against its hash when it is first read."""
        if shard not in self._unchanged:
            if shard.rows_file not in self._elsewhere:  # which is checked when it is opened
                with with_remedy(_SHARD_REMEDY):
                    require_unchanged(self.folder / shard.rows_file, self.manifest["sha256"][shard.rows_file])
            self._unchanged.add(shard)
        return self._mapped(shard)

    def _is_own(self, shard: Shard) -> bool:
        """Whether the rows of a shard are in the folder of the store, on a local disk."""
        return not self._copies and shard.rows_file not in self._elsewhere

    def read(self, start: int, stop: int, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Rows ``[start, stop)`` as a new array of shape (stop - start, dim), of float32 unless it says otherwise."""
        if not 0 <= start <= stop <= self.num_samples:
            raise IndexError(f"there are no rows {start} to {stop} of {self.num_samples} samples")
        out = np.empty((stop - start, self.dim), dtype=dtype)
        first, last = np.searchsorted(self._starts, start, side="right") - 1, np.searchsorted(self._starts, stop)
        for shard in self._shards[max(0, int(first)) : int(last)]:
            low, high = max(start, shard.start), min(stop, shard.stop)
            part, rows = out[low - start : high - start], self._rows(shard)
            if self._is_own(shard):
                copy_rows(rows, low - shard.start, part)
            else:  # others may put another file in its place, while this one is mapped
                part[:] = rows[low - shard.start : high - shard.start]
        return out

    def take(self, indices: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        """The rows of ``indices`` (sorted, ascending) as :meth:`read` gives them, of shape (len(indices), dim)."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_samples:
            raise IndexError(f"there are no rows {indices.min()} to {indices.max()} of {self.num_samples} samples")
        out = np.empty((len(indices), self.dim), dtype=dtype)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        numbers, counts = np.unique(shard_of, return_counts=True)
        stops = np.cumsum(counts)
        for number, low, high in zip(numbers, stops - counts, stops, strict=True):
            self._take_from(self._shards[number], indices[low:high], out[low:high])
        return out

    def _take_from(self, shard: Shard, indices: np.ndarray, out: np.ndarray) -> None:
        # What is mapped counts as memory of the process, so one shard is at a time.
        rows, wanted = self._rows(shard), indices - shard.start
        if rows.dtype == out.dtype:
            np.take(rows, wanted, axis=0, out=out, mode="clip")  # without a copy between
        else:
            out[:] = rows[wanted]
