"""``FeatureStore``: one ``.npy`` array per contiguous range of data-set indices, rows in index order.

A shard is a range of indices and a unit of work. Its rows are written first, then a small JSON file beside them that
says what they are: with that the shard is done. So an extraction resumes after any kill and goes on with another number
of processes; no row is written twice or lost, and nothing has to be merged. The manifest says at the start what the
features are made from, and at the end that every row is there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit import artifacts
from vissl_clusterfit.errors import ArtifactError, DataError

logger = logging.getLogger(__name__)

KIND = "feature_store"


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


def split_into_shards(num_samples: int, shard_size: int) -> list[Shard]:
    """Contiguous ranges of ``shard_size`` indices, the last one shorter, that cover ``[0, num_samples)``."""
    return [Shard(start, min(start + shard_size, num_samples)) for start in range(0, num_samples, shard_size)]


class FeatureStore:
    """Features of one split, complete, read by data-set index.

    Attributes:
        num_samples: rows, one per sample of the data set.
        dim: columns.
        dtype: how rows are kept, float16 or float32; they are read as float32.
        inputs: what the features were made from: data set, teacher, layer, pooling, transforms.
        unreadable: int64, sorted: the samples that could not be read. Their rows are zeros.
        content_hash: of the inputs and of every shard; two stores with the same hash hold the same features.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.inputs: dict[str, Any] = manifest["inputs"]
        self.num_samples: int = manifest["num_samples"]
        self.dim: int = manifest["dim"]
        self.dtype: str = manifest["dtype"]
        self.unreadable = np.asarray(manifest["unreadable"], dtype=np.int64)
        self.content_hash: str = manifest["content_hash"]
        self._shards = split_into_shards(self.num_samples, manifest["shard_size"])
        self._shard_size: int = manifest["shard_size"]

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
                "(config.CLUSTERFIT.FEATURES.EXTRACT=true); it goes on where it stopped."
            )
        store = cls(folder, manifest)
        for shard in store._shards:
            store._rows(shard)
        return store

    def _rows(self, shard: Shard) -> np.ndarray:
        rows = artifacts.read_array(self.folder / shard.rows_file, mmap=True)
        expected = (shard.stop - shard.start, self.dim)
        if rows.shape != expected or rows.dtype != self.dtype:
            raise ArtifactError(
                f"{self.folder / shard.rows_file} must hold {expected} of {self.dtype}, "
                f"found {rows.shape} of {rows.dtype}. Delete it and run the extraction again."
            )
        return rows

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``[start, stop)`` as a new float32 array of shape (stop - start, dim)."""
        out = np.empty((stop - start, self.dim), dtype=np.float32)
        for shard in self._shards[start // self._shard_size : -(-stop // self._shard_size)]:
            low, high = max(start, shard.start), min(stop, shard.stop)
            out[low - start : high - start] = self._rows(shard)[low - shard.start : high - shard.start]
        return out

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows of ``indices`` (sorted, ascending) as a new float32 array of shape (len(indices), dim)."""
        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), self.dim), dtype=np.float32)
        shard_of = indices // self._shard_size
        for number in np.unique(shard_of):
            shard = self._shards[number]
            here = shard_of == number
            out[here] = self._rows(shard)[indices[here] - shard.start]
        return out


class FeatureStoreWriter:
    """Makes a feature store in a folder, shard by shard, by any number of processes.

    Args:
        folder: of the store.
        inputs: what the features are made from; a folder that was begun with other inputs is refused.
        num_samples: rows of the whole store.
        shard_size: rows per shard. A store that was begun with another size keeps its own.
        dtype: float16 or float32.
    """

    def __init__(
        self, folder: Path, inputs: Mapping[str, Any], *, num_samples: int, shard_size: int, dtype: str
    ) -> None:
        self.folder = folder
        self.inputs = inputs
        self.num_samples = num_samples
        self.shard_size = shard_size
        self.dtype = dtype

    def begin(self) -> None:
        """Writes the manifest of a new store, or checks the one that is there. For one process, before the others.

        Raises:
            ArtifactError: the folder was begun with other inputs.
        """
        if artifacts.has_manifest(self.folder):
            manifest = artifacts.read_manifest(self.folder, KIND)
            artifacts.require_same_inputs(self.folder, manifest["inputs"], self.inputs)
            self.shard_size = manifest["shard_size"]
            return
        self._write_manifest(complete=False)

    def _write_manifest(self, **facts: Any) -> None:
        facts = {"num_samples": self.num_samples, "shard_size": self.shard_size, "dtype": self.dtype, **facts}
        artifacts.write_manifest(self.folder, KIND, self.inputs, facts)

    def shards(self) -> list[Shard]:
        """All shards of the store, in index order."""
        return split_into_shards(self.num_samples, self.shard_size)

    def missing(self) -> list[Shard]:
        """The shards that are not done, in index order."""
        return [shard for shard in self.shards() if not (self.folder / shard.done_file).is_file()]

    def write(self, shard: Shard, rows: np.ndarray, unreadable: list[int]) -> None:
        """Writes one shard: rows of shape (shard.stop - shard.start, dim), and which samples could not be read.

        Raises:
            DataError: a row of a readable sample is not finite.
        """
        assert rows.shape[0] == shard.stop - shard.start, "a shard holds one row per index"
        with np.errstate(over="ignore"):
            rows = rows.astype(self.dtype)
        _require_finite(rows, shard)
        digest = artifacts.write_array(self.folder / shard.rows_file, rows)
        done = {"sha256": digest, "unreadable": sorted(unreadable), "dim": rows.shape[1]}
        artifacts.write_json(self.folder / shard.done_file, done)

    def finish(self) -> FeatureStore:
        """Writes the final manifest. For one process, after all shards are done.

        Raises:
            ArtifactError: shards are missing or differ in width.
        """
        missing = self.missing()
        if missing:
            raise ArtifactError(
                f"{self.folder}: {len(missing)} of {len(self.shards())} shards are missing, the first holds the "
                f"samples {missing[0].start} to {missing[0].stop - 1}. Run the extraction again."
            )
        done = [artifacts.read_json(self.folder / shard.done_file) for shard in self.shards()]
        dims = {entry["dim"] for entry in done}
        if len(dims) != 1:
            raise ArtifactError(f"{self.folder}: shards of different widths ({sorted(dims)}). Delete the folder.")
        digests = [entry["sha256"] for entry in done]
        self._write_manifest(
            complete=True,
            dim=dims.pop(),
            shard_sha256=digests,
            unreadable=[index for entry in done for index in entry["unreadable"]],
            content_hash=artifacts.content_hash([dict(self.inputs), self.shard_size, digests]),
        )
        return FeatureStore.open(self.folder)


def _require_finite(rows: np.ndarray, shard: Shard) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise DataError(
            f"The teacher gave NaN or infinite features for {len(bad)} of the samples {shard.start} to "
            f"{shard.stop - 1}, the first is sample {shard.start + int(bad[0])}. Check the teacher's weights and "
            "the normalisation in config.CLUSTERFIT.FEATURES.TRANSFORMS; with FEATURES.DTYPE=float16, try float32."
        )


def batches(shards: list[Shard], batch_size: int) -> Iterator[list[int]]:
    """The indices of every shard in turn, in batches that never cross the end of a shard.

    The same index is therefore always in the same batch, whatever the number of processes.
    """
    for shard in shards:
        for start in range(shard.start, shard.stop, batch_size):
            yield list(range(start, min(start + batch_size, shard.stop)))
