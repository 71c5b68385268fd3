"""Fixtures of the tests of k-means."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from vissl_clusterfit.clustering.kmeans import kmeans
from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.sources import ArraySource


@pytest.fixture
def cluster(search_factory):
    """k-means of rows in memory, by each backend."""

    def run(rows, num_clusters, num_iter=20, seed=0, **options):
        return kmeans(ArraySource(rows), num_clusters, num_iter, seed, search_factory, **options)

    return run


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """(1797, 64) float32: the handwritten digits of scikit-learn, of unit length."""
    return unit_rows(load_digits().data.astype(np.float32))


@pytest.fixture(scope="session")
def many_digits(digits) -> np.ndarray:
    """(7188, 64): each digit four times, with noise, in an order that is drawn."""
    rng = np.random.default_rng(0)
    rows = np.tile(digits, (4, 1)) + 0.03 * rng.standard_normal((4 * len(digits), 64), dtype=np.float32)
    return unit_rows(rng.permutation(rows))
