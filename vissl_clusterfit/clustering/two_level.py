"""k-means on two levels, for K so large that every vector against every centroid takes too long.

First C coarse clusters of all vectors; then the vectors of each are clustered into its share of the K fine ones. An
iteration compares a vector with C centroids, and later with K / C or so, instead of K. That the fine clusters of a
coarse one see its vectors alone is a heuristic; see docs/clustering.md.

Legend: N vectors, D dimensions, K fine clusters, C coarse ones. Positions are those of a source, see ``protocol.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering import hierarchical_start, initialization
from vissl_clusterfit.clustering import kmeans as kmeans_module
from vissl_clusterfit.clustering.kmeans import KMeansResult, kmeans
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.proportional import shares_of_clusters
from vissl_clusterfit.clustering.protocol import VectorSource
from vissl_clusterfit.clustering.sources import ArraySource, chunk_rows
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.clustering.two_level_files import CoarseLabels, FineFiles, write_coarse_labels
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.search.protocol import SearchFactory

logger = logging.getLogger(__name__)

# Features that are read at once, of as many coarse clusters as they hold; prepared, one of these takes that much again.
# Larger ones are read again in each iteration.
_GROUP_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Vectors:
    """What is clustered: samples of a store, and what is done to them.

    Attributes:
        store: the features.
        preprocessing: applied to every chunk.
        indices: the samples to use, as ``StoreSource`` takes them.
    """

    store: FeatureStore
    preprocessing: Preprocessing
    indices: np.ndarray | None


def require_coarse_clusters_fit(num_coarse_clusters: int, num_points: int) -> None:
    """Checks that there are two vectors or more for each coarse cluster.

    Raises:
        ConfigError: there are not.
    """
    if 2 * num_coarse_clusters > num_points:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.NUM_COARSE_CLUSTERS",
                found=num_coarse_clusters,
                allowed=f"0 to {num_points // 2}, half the number of samples whose features can be clustered",
                remedy="Lower it; about the square root of NUM_CLUSTERS is quickest, and 0 is k-means on one level.",
            )
        )


def cluster_within(
    vectors: Vectors,
    coarse_centroids: np.ndarray,
    settings: ClusterFitConfig,
    search_factory: SearchFactory,
    folder: Path,
    run: str,
) -> tuple[KMeansResult, np.ndarray]:
    """The second level: clusters the vectors of each coarse cluster by themselves.

    All processes of the run call this together and have the same result. The coarse clusters are dealt out: one
    process does all the work for one of them. What is done is kept in ``folder``, one coarse cluster at a time.

    Args:
        vectors: what is clustered.
        coarse_centroids: (C, D) float32; a vector belongs to the nearest.
        settings: ``config.CLUSTERFIT``.
        search_factory: makes a search of centroids.
        folder: where the work is kept.
        run: names what is clustered, and how: what was kept of another clustering is not used.

    Returns:
        The state of all fine clusterings as that of one, its K clusters in the order of the coarse ones; and how many
        each coarse cluster has, (C,) int64.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    own_part = StoreSource(vectors.store, vectors.preprocessing, vectors.indices, part=(rank, world_size))
    with distributed.errors_shared():
        write_coarse_labels(own_part, search_factory(coarse_centroids), folder, rank)
    labels = CoarseLabels(folder, world_size)
    sizes = labels.sizes(len(coarse_centroids))
    shares = shares_of_clusters(sizes, settings.num_clusters)
    files = FineFiles(folder, f"{run} {hashlib.sha256(coarse_centroids.tobytes()).hexdigest()}")
    logger.info(
        "%d fine clusters for %d coarse ones of %d to %d features: %d to %d each.",
        settings.num_clusters,
        len(sizes),
        sizes.min(),
        sizes.max(),
        shares.min(),
        shares.max(),
    )
    with distributed.errors_shared():
        own = [index for index in range(rank, len(sizes), world_size) if shares[index]]
        left = [index for index in own if files.load(index, int(sizes[index]), int(shares[index])) is None]
        if len(left) < len(own):
            logger.info("%d of %d coarse clusters were done before.", len(own) - len(left), len(own))
        with Progress("Clustering within", len(own), "coarse clusters", done=len(own) - len(left)) as progress:
            for index, source in _sources(vectors, labels, sizes, left):
                with _quietly():
                    state = kmeans(
                        source,
                        int(shares[index]),
                        settings.num_iter,
                        int(np.random.SeedSequence([settings.seed, index]).generate_state(1)[0]),
                        search_factory,
                        spherical=settings.metric == "cosine",
                        start=settings.start,
                        growing=settings.growing_sample,
                        tolerance=settings.tolerance,
                    )
                files.save(index, state)
                progress.add(1)
    found = [files.load(index, int(sizes[index]), int(shares[index])) for index in np.flatnonzero(shares).tolist()]
    whole = [state for state in found if state is not None]
    assert len(whole) == len(found), "a file that was just written is not what was written"
    return _as_one(whole), shares


def _sources(
    vectors: Vectors, labels: CoarseLabels, sizes: np.ndarray, wanted: list[int]
) -> Iterator[tuple[int, VectorSource]]:
    """The vectors of each coarse cluster that is wanted. They don't depend on which others are."""
    raw = StoreSource(vectors.store, indices=vectors.indices)
    chunk, most = chunk_rows(raw.dim), _GROUP_BYTES // (4 * raw.dim)
    for group in _groups(wanted, sizes, most):
        positions, member = labels.positions(group, len(sizes))
        if len(positions) > most:
            yield group[0], StoreSource(vectors.store, vectors.preprocessing, raw.sample_indices(positions))
            continue
        rows = np.empty((len(positions), raw.dim), dtype=np.float32)
        for low in range(0, len(positions), chunk):
            rows[low : low + chunk] = raw.take(positions[low : low + chunk])
        bounds = np.cumsum(sizes[group])[:-1]
        for index, of in zip(group, np.split(np.argsort(member, kind="stable"), bounds), strict=True):
            # Each for itself and in chunks of its own, so that a projection rounds the same in any company.
            parts = [vectors.preprocessing.apply(rows[of[low : low + chunk]]) for low in range(0, len(of), chunk)]
            yield index, ArraySource(np.concatenate(parts))


def _groups(wanted: list[int], sizes: np.ndarray, most: int) -> Iterator[list[int]]:
    """Coarse clusters that have no more than ``most`` vectors together, or one that has more."""
    group: list[int] = []
    for index in wanted:
        if group and sizes[group].sum() + sizes[index] > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without a line for every iteration of every coarse cluster: there are thousands."""
    loggers = [module.logger for module in (kmeans_module, initialization, hierarchical_start)]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def _as_one(states: list[KMeansResult]) -> KMeansResult:
    """The states of several clusterings as that of one; those that ended early stay as they were."""
    num_points = sum(state.num_points for state in states)
    num_iter = max(len(state.objective) for state in states)

    def mean(name: str, number: int) -> float:
        values = [(state.num_points, getattr(state, name)) for state in states]
        return math.fsum(weight * each[min(number, len(each) - 1)] for weight, each in values) / num_points

    return KMeansResult(
        centroids=np.concatenate([state.centroids for state in states]),
        objective=tuple(mean("objective", number) for number in range(num_iter)),
        shares=tuple(mean("shares", number) for number in range(num_iter)),
        repaired=tuple(sum(sum(state.repaired[number : number + 1]) for state in states) for number in range(num_iter)),
        counts=np.concatenate([state.counts for state in states]),
        num_points=num_points,
        num_unchanged=min(state.num_unchanged for state in states),
        converged=all(state.converged for state in states),
        settled=any(state.settled for state in states),
    )
