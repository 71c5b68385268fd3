"""Fixtures of the tests of search, clustering, labels and planner."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_store import save_store

from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.search.faiss_search import FaissSearch
from vissl_clusterfit.search.protocol import SearchFactory
from vissl_clusterfit.search.torch_search import TorchSearch

StoreMaker = Callable[..., FeatureStore]


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    """A function that keeps rows as a feature store; those of unreadable samples are zeros, as in extraction."""

    def make(rows: np.ndarray, unreadable: Sequence[int] = (), name: str = "features") -> FeatureStore:
        return save_store(tmp_path / name, rows, unreadable)

    return make


@pytest.fixture
def blobs() -> np.ndarray:
    """(1000, 16) float32: twenty groups of unequal size."""
    rng = np.random.default_rng(7)
    group = rng.choice(20, size=1000, p=rng.dirichlet(np.ones(20)))
    return (3 * rng.standard_normal((20, 16))[group] + rng.standard_normal((1000, 16))).astype(np.float32)


@pytest.fixture(params=[FaissSearch, TorchSearch], ids=["faiss", "torch"])
def search_factory(request: pytest.FixtureRequest) -> SearchFactory:
    """The search of each backend."""
    return request.param


@pytest.fixture(scope="session")
def grouped_rows() -> np.ndarray:
    """(3000, 8) float32: forty groups."""
    rng = np.random.default_rng(5)
    return (3 * rng.standard_normal((40, 8))[rng.integers(0, 40, 3000)] + rng.standard_normal((3000, 8))).astype("f4")


@pytest.fixture(scope="session")
def rows_by_group() -> np.ndarray:
    """(3000, 8) float32: forty groups one after the other, which gives each process others."""
    rng = np.random.default_rng(5)
    group = np.sort(rng.integers(0, 40, 3000))
    return (3 * rng.standard_normal((40, 8))[group] + rng.standard_normal((3000, 8))).astype("f4")


@pytest.fixture(scope="session")
def grouped_store(tmp_path_factory: pytest.TempPathFactory, grouped_rows: np.ndarray) -> Path:
    """The folder of a store of these rows, of which four are unreadable."""
    folder = tmp_path_factory.mktemp("rows") / "features"
    return save_store(folder, grouped_rows, [0, 77, 500, 2999], shard_size=700).folder
