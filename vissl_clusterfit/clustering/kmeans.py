"""k-means (paper, section 3): Lloyd's iterations over any ``VectorSource``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.protocol import ClusterSums, Farthest, SearchFactory, VectorSource
from vissl_clusterfit.clustering.schedule import shares
from vissl_clusterfit.clustering.starts import random_start, spread_start
from vissl_clusterfit.errors import ConfigError, problem

logger = logging.getLogger(__name__)

RANDOM, SPREAD = "random", "k-means++"

# Centroids whose means are computed at a time.
_MEANS_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """The state after an iteration; the last one is the result.

    Attributes:
        centroids: (K, D) float32, after the update.
        objective: per iteration, the mean squared L2 distance of a vector to its nearest centroid, before the
            update, over the vectors that the iteration saw.
        shares: per iteration, the share of all vectors that it saw.
        repaired: per iteration, how many empty clusters were given a vector.
        counts: (K,) int64, the vectors of each cluster in the last iteration.
        num_points: N.
        converged: the last update changed no centroid, so no further one would on the same vectors.
    """

    centroids: np.ndarray
    objective: tuple[float, ...]
    shares: tuple[float, ...]
    repaired: tuple[int, ...]
    counts: np.ndarray
    num_points: int
    converged: bool

    @property
    def num_empty(self) -> int:
        """Clusters that stayed empty, because there are fewer distinct vectors than clusters."""
        return int((self.counts == 0).sum()) - self.repaired[-1]


def require_enough_points(num_clusters: int, num_points: int) -> None:
    """Checks that K is at most the number of vectors.

    Raises:
        ConfigError: it is not.
    """
    if num_clusters > num_points:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.NUM_CLUSTERS",
                found=num_clusters,
                allowed=f"1 to {num_points}, the number of samples whose features can be clustered",
                remedy="Lower it, or add samples.",
            )
        )


def kmeans(
    source: VectorSource,
    num_clusters: int,
    num_iter: int,
    seed: int,
    search_factory: SearchFactory,
    *,
    spherical: bool = False,
    start: str = RANDOM,
    growing: bool = False,
    initial_centroids: np.ndarray | None = None,
    resume_from: KMeansResult | None = None,
    on_iteration: Callable[[KMeansResult], None] | None = None,
) -> KMeansResult:
    """Clusters all vectors of a source. All processes of the run call it together, and have the same result.

    Every iteration assigns the vectors and moves each centroid to the mean of its own. An empty cluster takes
    over the farthest vector of another one: the clusters with the farthest vectors give theirs first, one in
    each iteration. So the objective never rises, and the loop settles also where there are fewer distinct
    vectors than clusters; those left over stay empty, which the log says. It stops when nothing moves.

    Args:
        source: the vectors; of unit norm when ``spherical``.
        num_clusters: K.
        num_iter: the largest number of iterations.
        seed: draws the first centroids.
        search_factory: makes a search of (K, D) centroids.
        spherical: scale centroids to unit norm after each update (cosine k-means). The objective stays the
            squared L2 distance, which is 2 - 2·cos for unit vectors.
        start: how the first centroids are drawn, "random" or "k-means++"; see ``starts.py``.
        growing: begin on a sample and end on all vectors; see ``schedule.py``.
        initial_centroids: (K, D), instead of drawn ones.
        resume_from: go on after this state, which gives the very result of a run that was not stopped.
        on_iteration: called after every iteration with the state so far.

    Raises:
        ConfigError: K is larger than the number of vectors.
    """
    require_enough_points(num_clusters, source.num_vectors)
    plan = shares(num_iter, source.num_vectors, num_clusters, growing=growing)
    if resume_from is not None:
        state = resume_from
        logger.info("k-means goes on after iteration %d of %d.", len(state.objective), num_iter)
    else:
        if initial_centroids is None and start == SPREAD:
            initial_centroids = spread_start(source, num_clusters, seed, search_factory, share=plan[0])
        elif initial_centroids is None:
            initial_centroids = random_start(source, num_clusters, seed)
        state = _first(initial_centroids, source.num_vectors, spherical)
    del resume_from, initial_centroids  # which would stay in memory
    for number, share in list(enumerate(plan, 1))[len(state.objective) :]:
        if state.converged and state.shares[-1] == share:
            if share == 1:
                break
            state = _repeated(state)
        else:
            state = _iterate(source, state, search_factory, share, spherical)
            logger.info(
                "k-means iteration %d of %d, on %.3g %% of the features: objective %.6g, %d empty clusters repaired.",
                number,
                num_iter,
                100 * share,
                state.objective[-1],
                state.repaired[-1],
            )
        if on_iteration is not None:
            on_iteration(state)
    _conclude(state, num_iter)
    return state


def _first(centroids: np.ndarray, num_points: int, spherical: bool) -> KMeansResult:
    """The state before the first iteration."""
    first = unit_rows(centroids) if spherical else np.array(centroids, dtype=np.float32)
    return KMeansResult(first, (), (), (), np.zeros(len(first), dtype=np.int64), num_points, False)


def _iterate(
    source: VectorSource, state: KMeansResult, search_factory: SearchFactory, share: float, spherical: bool
) -> KMeansResult:
    """The state after one more iteration."""
    search = search_factory(state.centroids)
    sums = source.accumulate(search, share)
    moved = _means(sums, state.centroids, spherical)
    repaired = 0
    if not sums.counts.all():
        repaired = _fill_empty(moved, sums, source.farthest(search, share), source)
    return KMeansResult(
        moved,
        (*state.objective, sums.objective(state.centroids)),
        (*state.shares, share),
        (*state.repaired, repaired),
        sums.counts,
        source.num_vectors,
        np.array_equal(moved, state.centroids),
    )


def _repeated(state: KMeansResult) -> KMeansResult:
    """The state after an iteration that sees what the last one saw, which changed nothing."""
    return replace(
        state,
        objective=(*state.objective, state.objective[-1]),
        shares=(*state.shares, state.shares[-1]),
        repaired=(*state.repaired, 0),
    )


def _conclude(result: KMeansResult, num_iter: int) -> None:
    if result.converged:
        logger.info("k-means converged: iteration %d changed no centroid.", len(result.objective))
    else:
        logger.info("k-means ends after all %d iterations; centroids were still moving.", num_iter)
    if result.num_empty:
        logger.warning(
            "%d of %d clusters stay empty: there are fewer distinct features. Lower "
            "config.CLUSTERFIT.NUM_CLUSTERS, or look for duplicate samples.",
            result.num_empty,
            len(result.counts),
        )


def _means(sums: ClusterSums, centroids: np.ndarray, spherical: bool) -> np.ndarray:
    """The new centroids; that of an empty cluster stays where it was."""
    moved = centroids.copy()
    # In blocks: float64 copies of all sums would be the most memory that k-means takes.
    for low in range(0, len(moved), _MEANS_BLOCK):
        block = slice(low, low + _MEANS_BLOCK)
        filled = sums.counts[block] > 0
        means = sums.sums[block][filled] / sums.counts[block][filled, None]
        if spherical:
            norms = np.linalg.norm(means, axis=1, keepdims=True)
            # The mean of opposite vectors has no direction.
            has_direction = norms > np.finfo(np.float32).eps
            means = np.where(has_direction, means / np.maximum(norms, 1e-300), moved[block][filled])
        moved[block][filled] = means
    return moved


def _fill_empty(centroids: np.ndarray, sums: ClusterSums, farthest: Farthest, source: VectorSource) -> int:
    """Moves centroids of empty clusters, in place, onto vectors that are far from theirs.

    Returns:
        How many were moved.
    """
    empty = np.flatnonzero(sums.counts == 0)
    # Nearer than twice float32's resolution is as good as on the centroid.
    on_centroid = (2 * np.finfo(np.float32).eps) ** 2 * np.einsum("kd,kd->k", centroids, centroids)
    donors = np.flatnonzero((sums.counts > 1) & (farthest.distances > on_centroid))
    donors = donors[np.argsort(-farthest.distances[donors], kind="stable")][: len(empty)]
    centroids[empty[: len(donors)]] = source.take(np.sort(farthest.positions[donors]))
    return len(donors)
