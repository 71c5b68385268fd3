"""``FeatureStoreWriter``: a feature store in the making, by any number of processes, over any number of starts.

A shard is a range of indices and a unit of work. Its rows are written first, then a small JSON file beside them that
says what they are: with that the shard is done. Whoever is free takes the next shard that is not done and not taken
(``storage/leases.py``). So an extraction resumes after any kill, with any number of processes; no row
is lost, and nothing has to be merged. The manifest says at the start what the features are made from, and at the end
that every row is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features.rows_files import RowsFile
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.sample_names import NAMES_FILE, NameList
from vissl_clusterfit.features.store import (
    KIND,
    UNREADABLE_FILE,
    FeatureStore,
    Shard,
    require_done_values,
    require_store_values,
    split_into_shards,
)
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import remove_leftovers
from vissl_clusterfit.storage.folders import names_in, remove_folder
from vissl_clusterfit.storage.leases import Lease, is_held

_MAX_LISTED = 1000


class FeatureStoreWriter:
    """Makes a feature store in a folder, shard by shard.

    Args:
        folder: of the store.
        inputs: what the features are made from; a folder that was begun with other inputs is refused.
        samples: uint64 (N,), the ordered sample list.
        shard_size: rows per shard. A store that was begun with another size keeps its own.
        dtype: float16 or float32; of a store that refers to other files (``refer``), float64, too.
        shard_rows: the rows of each shard where they are not all of the same size.
        names: of the samples, all of which have passed; None where they are not kept.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        samples: np.ndarray,
        *,
        shard_size: int,
        dtype: str,
        shard_rows: Sequence[int] | None = None,
        names: NameList | None = None,
    ) -> None:
        self.folder = folder
        self.inputs = inputs
        self.num_samples = len(samples)
        self.shard_size = shard_size
        self.dtype = dtype
        self._samples = samples
        self._shard_rows = shard_rows
        self._names = names
        self._inputs_hash = artifacts.content_hash(dict(inputs))

    def forget_empty(self) -> bool:
        """Takes back a store without rows, which no process fills: the command that began it had a mistake.

        Returns:
            Whether there was one, of other inputs or samples.
        """
        if not artifacts.has_manifest(self.folder):
            return False
        manifest, names = artifacts.read_manifest(self.folder, KIND), names_in(self.folder)
        leases = (self.folder / "leases" / name for name in names_in(self.folder / "leases"))
        is_same = (manifest["inputs"], manifest.get("num_samples")) == (self.inputs, self.num_samples)
        has_rows = manifest.get("complete") or any(name.startswith("rows-") for name in names)
        if is_same or has_rows or any(map(is_held, leases)):
            return False
        artifacts.remove_manifest(self.folder)
        for name in {SAMPLES_FILE, NAMES_FILE} & set(names):
            (self.folder / name).unlink()
        return True

    def begin(self) -> None:
        """Writes the manifest of a new store, or checks the one that is there. Each process calls it.

        Raises:
            ArtifactError: the folder was begun with other inputs.
        """
        remove_leftovers(self.folder)
        if not artifacts.has_manifest(self.folder):
            self._write_manifest(new=True, complete=False)
        manifest = artifacts.read_manifest(self.folder, KIND)
        artifacts.require_same_inputs(self.folder, manifest["inputs"], self.inputs)
        require_store_values(self.folder, manifest)
        self.shard_size = manifest["shard_size"]
        if not (self.folder / SAMPLES_FILE).is_file():
            artifacts.write_array(self.folder / SAMPLES_FILE, self._samples)
        if self._names is not None and not manifest.get("complete"):
            self._names.write(self.folder)

    def _write_manifest(self, *, new: bool = False, **facts: Any) -> None:
        facts = {"num_samples": self.num_samples, "shard_size": self.shard_size, "dtype": self.dtype, **facts}
        if self._shard_rows is not None:
            facts["shard_rows"] = list(self._shard_rows)
        artifacts.write_manifest(self.folder, KIND, self.inputs, facts, new=new)

    def shards(self) -> list[Shard]:
        """All shards of the store, in index order."""
        return split_into_shards(self.num_samples, self.shard_size, self._shard_rows)

    def missing(self) -> list[Shard]:
        """The shards that are not done, in index order."""
        there = names_in(self.folder)
        return [shard for shard in self.shards() if shard.done_file not in there]

    def claim(self, candidates: Iterator[Shard]) -> tuple[Shard, Lease] | None:
        """Takes the first of ``candidates`` that is neither done nor taken; None when there is none."""
        for shard in candidates:
            if self._is_done(shard):
                continue
            lease = Lease(self.folder / "leases" / f"{shard.start:012d}.json")
            if lease.acquire():
                # The shard may have been done between the look and the lease.
                if not self._is_done(shard):
                    return shard, lease
                lease.release()
        return None

    def _is_done(self, shard: Shard) -> bool:
        return (self.folder / shard.done_file).is_file()

    def write(self, shard: Shard, rows: np.ndarray, unreadable: Mapping[int, str]) -> None:
        """Writes one shard: rows of shape (shard.stop - shard.start, dim), and why which samples could not be read.

        Raises:
            DataError: a row is not finite, in the dtype of the store.
        """
        assert rows.shape[0] == shard.stop - shard.start, "a shard holds one row per index"
        with np.errstate(over="ignore"):
            rows = rows.astype(self.dtype)
        _require_finite(rows, shard)
        if self._is_done(shard):  # by another process meanwhile, where there are no leases
            return
        # A store without rows may have been begun again for other inputs.
        artifacts.require_same_inputs(self.folder, artifacts.read_manifest(self.folder, KIND)["inputs"], self.inputs)
        digest = artifacts.write_array(self.folder / shard.rows_file, rows)
        reasons = {str(index): unreadable[index] for index in sorted(unreadable)}
        self._write_done(shard, digest, rows.shape[1], reasons)

    def refer(self, shard: Shard, rows_in: RowsFile, dim: int) -> None:
        """Says that the rows of a shard are those of a file elsewhere, all of which are finite."""
        self._write_done(shard, rows_in.sha256, dim, {}, rows_in=rows_in.as_json())

    def _write_done(self, shard: Shard, digest: str, dim: int, reasons: Mapping[str, str], **more: Any) -> None:
        done = {"sha256": digest, "unreadable": reasons, "dim": dim, "inputs": self._inputs_hash, **more}
        artifacts.write_json(self.folder / shard.done_file, done)

    def read_done(self, shard: Shard) -> dict[str, Any]:
        """What is known of a shard that is done.

        Raises:
            ArtifactError: its file is missing or damaged.
        """
        path = self.folder / shard.done_file
        done = artifacts.read_json(path)
        if not _is_whole(done, shard):
            raise ArtifactError(f"{path} is damaged. Delete it and {shard.rows_file}, and run the extraction again.")
        return done

    def finish(self) -> FeatureStore:
        """Writes the final manifest, after all shards are done. Two processes that do it write the same.

        Raises:
            ArtifactError: shards are missing or differ in width.
        """
        missing = self.missing()
        if missing:
            raise ArtifactError(
                f"{self.folder}: {len(missing)} of {len(self.shards())} shards are missing, the first holds the "
                f"samples {missing[0].start} to {missing[0].stop - 1}. Run the extraction again."
            )
        done = {shard: self.read_done(shard) for shard in self.shards()}
        for shard, entry in done.items():
            require_done_values(self.folder / shard.done_file, entry)
            if entry.get("inputs") != self._inputs_hash:
                raise ArtifactError(
                    f"{self.folder / shard.done_file} is of another run: its features were made from other data or "
                    f"settings. Delete it and {shard.rows_file}, and run the extraction again."
                )
        dims = {entry["dim"] for entry in done.values()}
        if len(dims) != 1:
            raise ArtifactError(f"{self.folder}: shards of different widths ({sorted(dims)}). Delete the folder.")
        reasons = {int(index): reason for entry in done.values() for index, reason in entry["unreadable"].items()}
        digests = {shard.rows_file: entry["sha256"] for shard, entry in done.items()}
        content_hash = artifacts.content_hash([dict(self.inputs), digests])
        unreadable = np.array(sorted(reasons), dtype=np.int64)
        digests[UNREADABLE_FILE] = artifacts.write_array(self.folder / UNREADABLE_FILE, unreadable)
        digests[SAMPLES_FILE] = artifacts.file_sha256(self.folder / SAMPLES_FILE)
        if (self.folder / NAMES_FILE).is_file():
            digests[NAMES_FILE] = artifacts.file_sha256(self.folder / NAMES_FILE)
        facts: dict[str, Any] = {}
        if elsewhere := {shard.rows_file: entry["rows_in"] for shard, entry in done.items() if "rows_in" in entry}:
            facts["rows_in"] = elsewhere
        self._write_manifest(
            **facts,
            complete=True,
            dim=dims.pop(),
            sha256=digests,
            num_unreadable=len(reasons),
            unreadable=[{"index": index, "reason": reasons[index]} for index in sorted(reasons)[:_MAX_LISTED]],
            content_hash=content_hash,
        )
        remove_folder(self.folder / "leases")
        remove_leftovers(self.folder)
        return FeatureStore.open(self.folder)


def _is_whole(done: Mapping[str, Any], shard: Shard) -> bool:
    """Whether the file of a shard that is done says all that it must, of the types that it must."""
    unreadable = done.get("unreadable")
    return (
        isinstance(done.get("sha256"), str)
        and type(done.get("dim")) is int
        and isinstance(done.get("rows_in", {}), dict)
        and isinstance(unreadable, dict)
        and unreadable.keys() <= {str(index) for index in range(shard.start, shard.stop)}
        and all(isinstance(reason, str) for reason in unreadable.values())
    )


def _require_finite(rows: np.ndarray, shard: Shard) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise DataError(
            f"The teacher gave NaN or infinite features for {len(bad)} of the samples {shard.start} to "
            f"{shard.stop - 1}, the first is sample {shard.start + int(bad[0])}. Check the teacher's weights and "
            "the normalisation in config.CLUSTERFIT.FEATURES.TRANSFORMS; with FEATURES.DTYPE=float16, try float32."
        )
