"""Near-copies: samples whose features are nearly those of another sample in the same cluster.

All pairs of a cluster are compared in a random projection of the features to a few dimensions, which keeps distances
(Johnson and Lindenstrauss, 1984); what is near there is compared in full. In a cluster of more than
:data:`LARGEST_WHOLE` samples, each is compared with the next ones in the order of their distance to the centroid:
copies have the same one. So work and memory follow the number of samples, and exact copies are always found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.browse.clusters import Clusters
from vissl_clusterfit.features.store import FeatureStore

#: A near-copy is nearer, squared, than this share of the mean squared distance of a sample to its centroid.
NEAR = 0.01
LARGEST_WHOLE = 2048
_NEXT = 64
_DIMENSIONS = 32
# A squared distance in so many random dimensions is rarely, once in ten thousand times, larger by this factor.
_SLACK = 2.2
_ROWS_AT_ONCE = 16_384
_TAKEN_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Copies:
    """Samples that are nearly others.

    Attributes:
        limit: the squared distance below which two are near-copies.
        originals: int64 (N,): the sample that each is a copy of, the first of its group; -1 for samples that are none.
        groups: the samples of each group, the first one first; the largest groups first.
    """

    limit: float
    originals: np.ndarray
    groups: list[np.ndarray]

    @property
    def num_copies(self) -> int:
        """How many samples could be left out."""
        return int((self.originals >= 0).sum())


def near_copies(features: FeatureStore, clusters: Clusters, seed: int = 0) -> Copies:
    """Finds the near-copies in each cluster.

    A sample is a copy of the first sample of its cluster, in the order of distances, that it is near to, and with it
    of what that one is a copy of.

    Args:
        features: of the samples; each is scaled to unit norm first, so that brightness alone makes no difference.
        clusters: of the same samples.
        seed: of the projection.
    """
    projected = _projected(features, seed)
    scale = _mean_square(projected, clusters)
    limit = NEAR * scale
    earlier = np.full(features.num_samples, -1, dtype=np.int64)
    for later, first in _pairs_together(projected, clusters, _SLACK * limit):
        near = _squared_distances(features, later, first) <= limit
        later, first = later[near][::-1], first[near][::-1]  # of several, the first one is kept, written last
        new = earlier[later] < 0
        earlier[later[new]] = first[new]
    return _grouped(limit, earlier)


def _pairs_together(projected: np.ndarray, clusters: Clusters, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs of all clusters that may be near-copies, some thousands at a time."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for cluster in np.flatnonzero(clusters.sizes > 1).tolist():
        members = clusters.members(cluster)
        later, first = _near_pairs(projected[members], limit)
        if len(later):
            waiting.append((members[later], members[first]))
        if sum(len(pairs[0]) for pairs in waiting) >= _TAKEN_AT_ONCE:
            yield from _in_parts(waiting)
            waiting = []
    yield from _in_parts(waiting)


def _in_parts(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if pairs:
        later, first = (np.concatenate(column) for column in zip(*pairs, strict=True))
        for start in range(0, len(later), _TAKEN_AT_ONCE):
            yield later[start : start + _TAKEN_AT_ONCE], first[start : start + _TAKEN_AT_ONCE]


def _projected(features: FeatureStore, seed: int) -> np.ndarray:
    """Unit features in a few random dimensions, float32 (N, d)."""
    num_dims = min(features.dim, _DIMENSIONS)
    random = np.random.default_rng(seed).standard_normal((features.dim, num_dims))
    matrix = np.eye(features.dim) if num_dims == features.dim else random / np.sqrt(num_dims)
    matrix = matrix.astype(np.float32)
    projected = np.empty((features.num_samples, num_dims), dtype=np.float32)
    for start in range(0, features.num_samples, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, features.num_samples)
        projected[start:stop] = unit(features.read(start, stop)) @ matrix
    return projected


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit norm; rows of zeros stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _mean_square(rows: np.ndarray, clusters: Clusters) -> float:
    """The mean squared distance of rows to the mean of their cluster."""
    own = clusters.labels_in_order
    if not len(own):
        return 0.0
    total = 0.0
    for column in rows.T:
        values = column[clusters.order].astype(np.float64)
        means = np.bincount(own, weights=values, minlength=clusters.num_clusters) / np.maximum(clusters.sizes, 1)
        total += float(((values - means[own]) ** 2).sum())
    return total / len(own)


def _near_pairs(rows: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Of rows in their order: a row, and the few first of the earlier ones that are near to it."""
    parts = list(_near_in_whole(rows, limit) if len(rows) <= LARGEST_WHOLE else _near_in_order(rows, limit))
    later, first = (np.concatenate(column) for column in zip(*parts, strict=True))
    return later, first


def _near_in_whole(rows: np.ndarray, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    squares = (rows**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * (rows @ rows.T)
    # Rounding makes two rows that are the same a little apart.
    later, first = np.nonzero(distances <= limit + 1e-6 * squares.max(initial=0))
    is_later = first < later
    later, first = later[is_later], first[is_later]
    # A hundred thousand copies of one picture are not ten billion pairs: of each, its first few.
    rank = np.arange(len(later)) - np.searchsorted(later, later)
    yield later[rank < _NEXT], first[rank < _NEXT]


def _near_in_order(rows: np.ndarray, limit: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for step in range(_NEXT, 0, -1):
        distances = ((rows[step:] - rows[:-step]) ** 2).sum(axis=1)
        found = np.flatnonzero(distances <= limit)
        yield found + step, found


def _squared_distances(features: FeatureStore, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    wanted, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    rows = unit(features.take(wanted))
    return ((rows[places[: len(first)]] - rows[places[len(first) :]]) ** 2).sum(axis=1)


def _grouped(limit: float, earlier: np.ndarray) -> Copies:
    originals = earlier.copy()
    while (further := np.where(originals >= 0, earlier[originals], -1)).max(initial=-1) >= 0:
        originals = np.where(further >= 0, further, originals)
    copies = np.flatnonzero(originals >= 0)
    of_whom, inverse = np.unique(originals[copies], return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    split = np.split(copies[order], np.cumsum(np.bincount(inverse, minlength=len(of_whom)))[:-1]) if len(copies) else []
    groups = [np.concatenate([[first], rest]) for first, rest in zip(of_whom, split, strict=True)]
    return Copies(limit, originals, sorted(groups, key=len, reverse=True))
