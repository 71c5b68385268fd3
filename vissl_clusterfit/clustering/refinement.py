"""After a clustering on two levels, a few of Lloyd's iterations over all fine centroids: across the coarse borders.

The second level sees the vectors of one coarse cluster at a time, so that a small group of vectors which a border cuts
has centroids on either side of it. Here each vector goes to the nearest of all fine centroids, or of those in the
coarse clusters near it, and each centroid to the mean of its vectors, wherever these are. Centroids then no longer stay
in the coarse cluster that they were made in; they are put into the one that they are nearest to.

Legend: N vectors, D dimensions, K fine centroids, C coarse ones, P coarse clusters that a vector looks at, S vectors of
a sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from vissl_clusterfit.clustering.coarse import coarse_clusters, near_points, spread_vectors
from vissl_clusterfit.clustering.kmeans import KMeansResult, Sums, kmeans
from vissl_clusterfit.clustering.protocol import VectorSource
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.search.protocol import Search, SearchFactory
from vissl_clusterfit.search.tile import MOST_CENTROIDS
from vissl_clusterfit.search.two_level import NUM_PROBED, TwoLevelSearch

# So many fine centroids are searched together: the products of a few coarse clusters would take no less time.
_SEARCHED_TOGETHER = MOST_CENTROIDS
# Of the sample, so many may have their nearest centroid in a coarse cluster that is not looked at.
_MOST_MISSED = 0.005


@dataclass(frozen=True, eq=False)
class Refined:
    """What a refinement ends with.

    Attributes:
        result: the state after it, whose objectives are those of the second level and then its own; centroids are in
            the order of the coarse clusters that they are nearest to.
        fine_counts: (C,) int64, how many each coarse cluster has.
        num_probed: P, with which labels are the nearest centroids; C for all of them.
    """

    result: KMeansResult
    fine_counts: np.ndarray
    num_probed: int


def refine(
    source: VectorSource,
    fine: KMeansResult,
    coarse_centroids: np.ndarray,
    settings: ClusterFitConfig,
    search_factory: SearchFactory,
    *,
    resume_from: tuple[KMeansResult, Sums] | None = None,
    on_iteration: Callable[[KMeansResult, Sums], None] | None = None,
) -> Refined:
    """Moves fine centroids across the borders of coarse clusters. All processes of the run call it together.

    Args:
        source: the vectors.
        fine: what the second level ended with.
        coarse_centroids: (C, D) float32.
        settings: ``config.CLUSTERFIT``.
        search_factory: makes a search of centroids.
        resume_from, on_iteration: as of :func:`~vissl_clusterfit.clustering.kmeans.kmeans`.
    """
    sample, count = spread_vectors(source), len(fine.centroids)
    cosine = settings.metric == "cosine"

    def near_clusters(centroids: np.ndarray) -> Search:
        return _Regrouped(centroids, coarse_centroids, sample, search_factory)

    search: SearchFactory = near_clusters
    if count <= _SEARCHED_TOGETHER:
        points = functools.partial(coarse_clusters, source, count, settings.seed, search_factory, spherical=cosine)
        search = near_points(source, count, points, search_factory)
    state = kmeans(
        source,
        count,
        settings.refinement_iterations,
        settings.seed,
        search,
        spherical=cosine,
        tolerance=settings.tolerance,
        initial_centroids=fine.centroids,
        resume_from=resume_from,
        on_iteration=on_iteration,
    )
    order, fine_counts = _grouped(state.centroids, coarse_centroids, search_factory)
    centroids = state.centroids[order]
    result = replace(
        state,
        centroids=centroids,
        counts=state.counts[order],
        objective=(*fine.objective, *state.objective),
        shares=(*fine.shares, *state.shares),
        repaired=(*fine.repaired, *state.repaired),
    )
    probed = _num_probed(centroids, coarse_centroids, fine_counts, sample, search_factory)
    return Refined(result, fine_counts, probed)


def _grouped(
    centroids: np.ndarray, coarse_centroids: np.ndarray, search_factory: SearchFactory
) -> tuple[np.ndarray, np.ndarray]:
    """The order (K,) int64 of centroids by the coarse cluster that is nearest to each, and how many each has (C,)."""
    own = search_factory(coarse_centroids).labels(centroids)
    return np.argsort(own, kind="stable"), np.bincount(own, minlength=len(coarse_centroids))


def _num_probed(
    centroids: np.ndarray,
    coarse_centroids: np.ndarray,
    fine_counts: np.ndarray,
    sample: np.ndarray,
    search_factory: SearchFactory,
) -> int:
    """P: the least of 8, 16, ... with which enough of a sample find the nearest of all centroids, or else C.

    Args:
        centroids: (K, D) float32, in the order of their coarse clusters.
        coarse_centroids: (C, D) float32.
        fine_counts: (C,) int64.
        sample: (S, D) float32.
        search_factory: makes a search of centroids.
    """
    num_coarse = len(coarse_centroids)
    if len(centroids) <= _SEARCHED_TOGETHER:
        return num_coarse
    nearest = search_factory(centroids).nearest(sample)[0][:, 0]
    own = torch.from_numpy(np.repeat(np.arange(num_coarse), fine_counts)[nearest])
    coarse, rows = (torch.from_numpy(array).double() for array in (coarse_centroids, sample))
    distances = torch.addmm(coarse.square().sum(dim=1), rows, coarse.T, alpha=-2)
    distances[:, torch.from_numpy(fine_counts == 0)] = torch.inf  # which nothing looks at
    before = (distances < distances.gather(1, own[:, None])).sum(dim=1)
    number = NUM_PROBED
    while number < num_coarse and float((before >= number).double().mean()) > _MOST_MISSED:
        number *= 2
    return min(number, num_coarse)


class _Regrouped:
    """A search of K centroids in any order by way of the coarse clusters that they are nearest to."""

    card = None

    def __init__(
        self, centroids: np.ndarray, coarse_centroids: np.ndarray, sample: np.ndarray, search_factory: SearchFactory
    ) -> None:
        self._order, counts = _grouped(centroids, coarse_centroids, search_factory)
        ordered = centroids[self._order]
        probed = _num_probed(ordered, coarse_centroids, counts, sample, search_factory)
        self._search = TwoLevelSearch(ordered, coarse_centroids, counts, search_factory, probed)
        self.num_clusters, self.num_threads, self.num_rows = len(centroids), self._search.num_threads, 0

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest centroids that were found, of (n, D) float32, as (n,) int64."""
        return self._order[self._search.labels(rows_nD)]

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest that were found, and squared distances to them, (n, count) each."""
        labels, distances = self._search.nearest(rows_nD, count)
        return self._order[labels], distances
