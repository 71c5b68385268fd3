"""The first centroids: drawn at random, spread by k-means++, or given.

k-means++ (Arthur and Vassilvitskii, 2007) draws one vector at a time, with a probability in proportion to its squared
distance from those drawn before: K passes. Here each of a few rounds draws a part of them at once, as k-means|| does
(Bahmani et al., 2012), but exactly as many as are wanted, so that nothing has to be reduced afterwards. That is a
heuristic; it takes one assignment's time in all.
"""

from __future__ import annotations

import logging

import numpy as np

from vissl_clusterfit.clustering.protocol import ALL, ChunkTask, Fraction, VectorSource
from vissl_clusterfit.clustering.sampling import uniform
from vissl_clusterfit.search.norms import row_squares
from vissl_clusterfit.search.protocol import Search, SearchFactory

logger = logging.getLogger(__name__)

#: In so many rounds k-means++ draws the first centroids.
NUM_ROUNDS = 6
_BLOCK_ROWS = 256


def random_start(source: VectorSource, num_clusters: int, seed: int) -> np.ndarray:
    """K vectors at different positions, all sets of them equally likely, as (K, D) float32."""
    chosen = np.random.default_rng(seed).choice(source.num_vectors, num_clusters, replace=False)
    return source.take(np.sort(chosen))


def kmeans_plusplus(
    source: VectorSource, num_clusters: int, seed: int, search_factory: SearchFactory, share: Fraction = ALL
) -> np.ndarray:
    """K vectors far from each other, as (K, D) float32. All processes of the run call it together.

    Args:
        source: the vectors.
        num_clusters: K.
        seed: the same one draws the same vectors.
        search_factory: makes a search of centroids.
        share: of the source, from which all are drawn; it must hold K vectors or more.
    """
    distances = np.full(sum(map(len, source.positions(share))), np.inf, dtype=np.float32)
    drawn = np.empty(0, dtype=np.int64)
    centroids = np.empty((0, source.dim), dtype=np.float32)
    for number in range(NUM_ROUNDS):
        count = num_clusters // NUM_ROUNDS + (number < num_clusters % NUM_ROUNDS)
        if not count:
            continue
        fresh = _draw(source, share, distances, drawn, count, stream=seed * NUM_ROUNDS + number + 1)
        drawn = np.concatenate([drawn, fresh])
        new = source.take(fresh)
        centroids = np.concatenate([centroids, new])
        if len(drawn) < num_clusters:
            source.over_chunks(_approach(search_factory(new), new, distances), share)
    logger.info("k-means++ drew %d first centroids in %d rounds.", num_clusters, NUM_ROUNDS)
    return centroids


def _approach(search: Search, centroids_KD: np.ndarray, distances: np.ndarray) -> ChunkTask:
    """Lowers the squared distances of all vectors, in order, to those from centroids that are nearer."""
    done = 0

    def find(rows_nD: np.ndarray) -> np.ndarray:
        return _squared_distances(rows_nD, centroids_KD, search.labels(rows_nD))

    def keep(_: np.ndarray, __: np.ndarray, found: np.ndarray) -> None:
        nonlocal done
        before = distances[done : done + len(found)]
        np.minimum(before, found, out=before)
        done += len(found)

    return ChunkTask(keep, find, search.num_threads)


def _squared_distances(rows_nD: np.ndarray, centroids_KD: np.ndarray, labels_n: np.ndarray) -> np.ndarray:
    """(n,) float32, in blocks that stay in the processor's cache."""
    distances = np.empty(len(rows_nD), dtype=np.float32)
    for low in range(0, len(rows_nD), _BLOCK_ROWS):
        block = slice(low, low + _BLOCK_ROWS)
        distances[block] = row_squares(rows_nD[block] - centroids_KD[labels_n[block]])
    return distances


def _draw(
    source: VectorSource, share: Fraction, distances: np.ndarray, drawn: np.ndarray, count: int, stream: int
) -> np.ndarray:
    """Draws positions without replacement, with weights; sorted.

    Each position gets an exponential time with its weight as rate; the first ones are drawn (Efraimidis and Spirakis,
    2006). So what is drawn does not depend on which process has which position.
    """
    first, own, done = np.empty(0), np.empty(0, dtype=np.int64), 0
    for positions in source.positions(share):
        weight = distances[done : done + len(positions)]
        done += len(positions)
        waiting = -np.log(uniform(positions, stream))
        # At the start all weights are the same; later those without one, which equal a centroid, come last.
        rates = np.where(np.isinf(weight), 1.0, np.maximum(weight.astype(np.float64), 1e-300))
        times = np.where(np.isin(positions, drawn), np.inf, waiting / rates)
        first, own = _first(np.concatenate([first, times]), np.concatenate([own, positions]), count)
    gathered = source.gather((first, own))
    times, positions = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    return np.sort(_first(times, positions, count)[1])


def _first(times: np.ndarray, positions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` first times and their positions, in any order; of equal times, the lower positions."""
    if len(times) > count:
        latest = np.partition(times, count - 1)[count - 1]
        candidates = np.flatnonzero(times <= latest)
        kept = candidates[np.lexsort((positions[candidates], times[candidates]))[:count]]
        return times[kept], positions[kept]
    return times, positions
