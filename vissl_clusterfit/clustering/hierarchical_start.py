"""First centroids by way of some 3√K coarse clusters: the vectors of each are clustered by themselves.

A vector is held against 3√K centroids once and then, in an iteration, against some √K / 3 instead of K, so that nearly
all of the time is in reading.
What comes out are centroids, and the sums of the vectors as they were last assigned, with which iterations by parts go
on (``minibatches.py``): these cross the borders of the coarse clusters. It is a heuristic; labels are always those of
the nearest of all centroids.

The vectors of one coarse cluster are worked on by one thread in the order of their positions, so that any number of
processes and threads gives the same centroids. Products are in float32, whose rounding is the processor's: that of
another kind may give others.

Legend: n vectors of one coarse cluster, D dimensions, k fine clusters of it, K of all.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import DTypeLike

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.minibatches import MinibatchPlan
from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.proportional import shares_of_clusters
from vissl_clusterfit.clustering.protocol import ChunkTask, ClusterSums, Fraction, VectorSource
from vissl_clusterfit.clustering.reproducible_sums import squared_norms
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.search.near_points import POINTS_PER_ROOT
from vissl_clusterfit.search.protocol import Search, SearchFactory
from vissl_clusterfit.search.threads import ordered_map
from vissl_clusterfit.search.torch_search import full_precision

logger = logging.getLogger(__name__)

# Iterations of the clustering of each coarse cluster.
_FINE_ITERATIONS = 4
# Vectors that are added up at a time, in float64: they stay in the processor's cache.
_BLOCK_ROWS = 128
#: Against so many times √K centroids a vector is held.
HIERARCHICAL_PASSES = POINTS_PER_ROOT + (_FINE_ITERATIONS + 1) / POINTS_PER_ROOT


@dataclass(frozen=True, eq=False)
class HierarchicalStart:
    """What iterations go on from.

    Attributes:
        centroids: (K, D) float32, to which the vectors were assigned.
        sums: of the vectors of each share, as they were assigned.
    """

    centroids: np.ndarray
    sums: dict[Fraction, ClusterSums]


def hierarchical_start(
    source: VectorSource,
    num_clusters: int,
    seed: int,
    coarse: np.ndarray,
    search_factory: SearchFactory,
    seen: MinibatchPlan,
    *,
    spherical: bool = False,
) -> HierarchicalStart:
    """Clusters the vectors of some shares on two levels. All processes of the run call it together.

    Memory: 8 bytes for each of these vectors, and the vectors of one coarse cluster for each thread.

    Args:
        source: the vectors.
        num_clusters: K.
        seed: the same one gives the same centroids.
        coarse: (C, D) float32, the coarse centroids (``coarse.py``).
        search_factory: makes a search of centroids.
        seen: the shares, from 0 on without gaps; they must hold K vectors or more.
        spherical: scale centroids to unit norm.
    """
    share = (seen[0][0], seen[-1][1])
    positions, members = _members(source, search_factory(coarse), share)
    sizes = np.bincount(members, minlength=len(coarse))
    counts = shares_of_clusters(sizes, num_clusters)
    ends, order = np.cumsum(counts), np.argsort(members, kind="stable")
    of_each = [positions[of] for of in np.split(order, np.cumsum(sizes)[:-1])]
    centroids = np.zeros((num_clusters, source.dim), dtype=np.float32)
    sums = np.zeros((len(seen), num_clusters, source.dim), dtype=np.float32)
    numbers, squares = np.zeros((len(seen), num_clusters), dtype=np.int64), np.zeros((len(coarse), len(seen)))

    def cluster(index: int) -> Callable[[], None]:
        members = of_each[index]
        rng = np.random.default_rng([seed, index])
        found = _clustered(source.take(members), int(counts[index]), rng, spherical)
        of = slice(ends[index] - counts[index], ends[index])
        part_of = np.argmax([in_share(members, part) for part in seen], axis=0)
        return functools.partial(keep, index, of, found, part_of)

    def keep(index: int, of: slice, found: _Clustered, part_of: np.ndarray) -> None:
        centroids[of] = found.centroids
        sums[:, of], numbers[:, of], squares[index] = found.sums_of(part_of, len(seen))

    rank, world_size = source.part
    own = [index for index in np.argsort(-sizes, kind="stable")[rank::world_size].tolist() if counts[index]]
    with contextlib.nullcontext() if world_size == 1 else distributed.errors_shared(), full_precision():
        ordered_map(own, cluster, torch.get_num_threads())
    if world_size > 1:
        for values in (centroids, sums, numbers, squares):  # of the others, zeros
            distributed.add_up(values)
    logger.info(
        "%d first centroids of %d coarse clusters of %d to %d features.",
        num_clusters,
        len(sizes),
        sizes.min(),
        sizes.max(),
    )
    totals = squares.sum(axis=0).tolist()
    known = {part: ClusterSums(*of_part) for part, *of_part in zip(seen, sums, numbers, totals, strict=True)}
    return HierarchicalStart(centroids, known)


def _members(source: VectorSource, search: Search, share: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """The positions of a share, ascending, (m,) int64, and their coarse clusters (m,) int32."""
    positions: list[np.ndarray] = []
    members: list[np.ndarray] = []

    def keep(found_at: np.ndarray, _: np.ndarray, labels: np.ndarray) -> None:
        positions.append(found_at)
        members.append(labels.astype(np.int32))

    source.over_chunks(ChunkTask(keep, search.labels, search.num_threads, card=search.card), share)
    gathered = source.gather((_joined(positions, np.int64), _joined(members, np.int32)))
    return _joined([own for own, _ in gathered], np.int64), _joined([own for _, own in gathered], np.int32)


def _joined(parts: list[np.ndarray], dtype: DTypeLike) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


@dataclass(frozen=True, eq=False)
class _Clustered:
    """The vectors of one coarse cluster, with the fine centroids that they were assigned to."""

    rows: torch.Tensor
    centroids: np.ndarray
    labels: torch.Tensor

    def sums_of(self, part_n: np.ndarray, num_parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each part, sums (P, k, D) float32, counts (P, k) and squared norms (P,); vectors belong to (n,) int64."""
        count, (_, dim) = len(self.centroids), self.rows.shape
        part = torch.from_numpy(part_n)
        place = part * count + self.labels
        sums = torch.zeros(num_parts * count, dim, dtype=torch.float64)
        for rows, to in zip(self.rows.split(_BLOCK_ROWS), place.split(_BLOCK_ROWS), strict=True):
            sums.index_add_(0, to, rows.double())
        numbers = torch.bincount(place, minlength=len(sums)).view(num_parts, count)
        norms = torch.from_numpy(squared_norms(self.rows.numpy()))
        squares = torch.zeros(num_parts, dtype=torch.float64).index_add_(0, part, norms)
        return sums.float().view(num_parts, count, dim).numpy(), numbers.numpy(), squares.numpy()


def _clustered(rows_nD: np.ndarray, count: int, rng: np.random.Generator, spherical: bool) -> _Clustered:
    """Lloyd's algorithm, from a random start."""
    rows = torch.from_numpy(rows_nD)
    centroids = rows[torch.from_numpy(np.sort(rng.choice(len(rows), count, replace=False)))]
    for _ in range(_FINE_ITERATIONS):
        scores, labels = _nearest(rows, centroids)
        sizes = torch.bincount(labels, minlength=count)
        means = torch.zeros_like(centroids).index_add_(0, labels, rows) / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero()[:, 0]
        if len(empty):  # they take over what is farthest from its centroid
            far = (rows.square().sum(dim=1) / 2 - scores).argsort(descending=True, stable=True)[: len(empty)]
            means[empty] = rows[far]
        centroids = torch.from_numpy(unit_rows(means.numpy())) if spherical else means
    return _Clustered(rows, centroids.numpy(), _nearest(rows, centroids)[1])


def _nearest(rows: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest x·c - |c|²/2 of each row (n, D), (n,) float32, and where it is, (n,) int64."""
    return torch.addmm(centroids.square().sum(dim=1) / -2, rows, centroids.T).max(dim=1)
