"""Few clusters of a sample: coarse ones of a clustering on two levels, and points around which iterations search.

Legend: N vectors, D dimensions, C coarse clusters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from vissl_clusterfit.clustering.initialization import kmeans_plusplus
from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.protocol import VectorSource
from vissl_clusterfit.search.near_points import (
    FEWEST_CENTROIDS,
    SAMPLE_ROWS,
    NearPoints,
    num_points,
    takes_grid,
)
from vissl_clusterfit.search.protocol import Search, SearchFactory

# Iterations over the sample.
_ITERATIONS = 3
# Vectors of the sample for each coarse cluster.
_VECTORS_PER_COARSE = 32
_SMALLEST_SHARE = 1 / 64


def coarse_clusters(
    source: VectorSource, num_clusters: int, seed: int, search_factory: SearchFactory, *, spherical: bool = False
) -> np.ndarray:
    """(C, D) float32 of a sample, C = 3√K for K clusters, K at most. All processes of the run call it together.

    Args:
        source: the vectors.
        num_clusters: K.
        seed: the same one gives the same centroids.
        search_factory: makes a search of centroids.
        spherical: scale centroids to unit norm.
    """
    count = min(num_clusters, num_points(num_clusters))
    sample = (0.0, min(1.0, max(_VECTORS_PER_COARSE * count / source.num_vectors, _SMALLEST_SHARE)))
    centroids = kmeans_plusplus(source, count, seed, search_factory, sample)
    for _ in range(_ITERATIONS):
        sums = source.accumulate(search_factory(centroids), sample)
        filled = sums.counts > 0
        centroids[filled] = sums.sums[filled] / sums.counts[filled, None]
        centroids = unit_rows(centroids) if spherical else centroids
    return centroids


def near_points(
    source: VectorSource, num_clusters: int, coarse: Callable[[], np.ndarray], search_factory: SearchFactory
) -> SearchFactory:
    """What searches the K centroids of an iteration, and fewer first ones: on a grid, where that is of use.

    Args:
        source: the vectors.
        num_clusters: K.
        coarse: gives points (G, D) float32, when lists are first made; all processes of the run call it together.
        search_factory: makes a search of centroids.
    """
    if num_clusters < FEWEST_CENTROIDS:
        return search_factory
    if not takes_grid(search_factory(source.take(np.zeros(1, int))), source.dim):
        return search_factory

    @functools.cache
    def points() -> NearPoints:
        return NearPoints(coarse, spread_vectors(source), search_factory)

    def search(centroids: np.ndarray) -> Search:
        return points()(centroids)

    return search


def spread_vectors(source: VectorSource) -> np.ndarray:
    """(S, D) float32, some vectors spread evenly over the source: those on which it is measured how far to look."""
    spread = np.linspace(0, source.num_vectors - 1, min(SAMPLE_ROWS, source.num_vectors)).astype(np.int64)
    return source.take(spread)
