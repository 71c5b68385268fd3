"""What the tests of clustering share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vissl_clusterfit.features.store import FeatureStore, FeatureStoreWriter

StoreMaker = Callable[..., FeatureStore]


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    """A function that keeps rows as a feature store; those of unreadable samples are zeros, as in extraction."""

    def make(rows: np.ndarray, unreadable: Sequence[int] = (), name: str = "features") -> FeatureStore:
        rows = rows.copy()
        rows[list(unreadable)] = 0
        inputs = {"dataset": {"fingerprint": name, "num_samples": len(rows)}}
        writer = FeatureStoreWriter(tmp_path / name, inputs, num_samples=len(rows), shard_size=100, dtype="float32")
        writer.begin()
        for shard in writer.shards():
            here = [index for index in unreadable if shard.start <= index < shard.stop]
            writer.write(shard, rows[shard.start : shard.stop], here)
        return writer.finish()

    return make


@pytest.fixture
def blobs() -> np.ndarray:
    """(1000, 16) float32: twenty groups of unequal size."""
    rng = np.random.default_rng(7)
    group = rng.choice(20, size=1000, p=rng.dirichlet(np.ones(20)))
    return (3 * rng.standard_normal((20, 16))[group] + rng.standard_normal((1000, 16))).astype(np.float32)
