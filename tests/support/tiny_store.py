"""Small real artefacts of the core, and what is done to their files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.features.sample_list import dataset_inputs, hash_samples
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.storage import artifacts


def save_store(
    folder: Path,
    rows: np.ndarray,
    unreadable: Sequence[int] = (),
    *,
    shard_size: int = 100,
    dtype: str = "float32",
    inputs: Mapping[str, Any] | None = None,
) -> FeatureStore:
    """Rows as a feature store; those of unreadable samples are zeros, as in extraction. Its data are named after it."""
    samples = hash_samples(f"{folder.name} {index}" for index in range(len(rows)))
    writer = FeatureStoreWriter(
        folder, {"dataset": dataset_inputs(samples), **(inputs or {})}, samples, shard_size=shard_size, dtype=dtype
    )
    rows = rows.copy()
    rows[list(unreadable)] = 0
    writer.begin()
    for shard in writer.missing():
        here = {index: "truncated" for index in unreadable if shard.start <= index < shard.stop}
        writer.write(shard, rows[shard.start : shard.stop], here)
    return writer.finish()


def save_codebook(
    folder: Path,
    centroids: np.ndarray,
    preprocessing: Preprocessing | None = None,
    input_dim: int | None = None,
    cluster_backend: str = "torch",
) -> Codebook:
    """Given centroids as a codebook."""
    facts = {"metric": "l2", "input_dim": input_dim or centroids.shape[1], "cluster_backend": cluster_backend}
    counts = np.ones(len(centroids), dtype=np.int64)
    return Codebook.save(folder, {"features": "abc"}, centroids, counts, preprocessing or Preprocessing(), facts)


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """A manifest that says something else and is whole: what only a faulty program writes. None takes a key away."""
    manifest = {**artifacts.read_manifest(folder), **changes}
    kind, inputs = manifest.pop("kind"), manifest.pop("inputs")
    del manifest["format"]
    facts = {name: value for name, value in manifest.items() if value is not None}
    artifacts.write_manifest(folder, kind, inputs, facts)


def rewrite_array(folder: Path, name: str, array: np.ndarray) -> None:
    """Another array under an honest SHA-256: what only a faulty program writes."""
    digest = artifacts.write_array(folder / name, array)
    rewrite_manifest(folder, sha256={**artifacts.read_manifest(folder)["sha256"], name: digest})


def rewrite_rows(store: FeatureStore, name: str, rows: np.ndarray) -> FeatureStore:
    """Other rows in a shard of a store, under an honest SHA-256."""
    rewrite_array(store.folder, name, rows)
    return FeatureStore.open(store.folder)


def edit_manifest(folder: Path, **changes: object) -> None:
    """A manifest that was changed by hand."""
    path = folder / artifacts.MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_a_bit(path: Path, position: int = -7, bit: int = 2) -> None:
    """Damages a file that keeps its size."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with the SHA-256 of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
