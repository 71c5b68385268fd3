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
