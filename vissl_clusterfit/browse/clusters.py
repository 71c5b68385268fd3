"""The samples of each cluster in order of their distance, and the figures of each cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: A cluster is a giant from so many times the median one.
GIANT = 10.0


@dataclass(frozen=True, eq=False)
class Clusters:
    """One labelling of N samples by K clusters, gone through by cluster.

    Attributes:
        sizes: int64 (K,).
        order: int64 (n,): the labelled samples, cluster after cluster, in each the nearest to its centroid first.
        starts: int64 (K + 1,): where each cluster begins in ``order``.
        distances: float32 (N,), squared, to the own centroid; None where they are not known.
        margins: float32 (N,), how much larger the squared distance to the next centroid is; None likewise.
        mean_distances: float64 (K,), of each cluster; NaN for an empty one, and where distances are not known.
        undecided: float64 (K,), the share of samples whose margin is at most ``tolerance`` of their distance; as above.
    """

    sizes: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    distances: np.ndarray | None
    margins: np.ndarray | None
    mean_distances: np.ndarray
    undecided: np.ndarray

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.sizes)

    @property
    def labels_in_order(self) -> np.ndarray:
        """The cluster of each sample of ``order``, int64 (n,)."""
        return np.repeat(np.arange(self.num_clusters), self.sizes)

    def members(self, cluster: int) -> np.ndarray:
        """The samples of a cluster, the nearest first."""
        return self.order[self.starts[cluster] : self.starts[cluster + 1]]

    def nearest(self, cluster: int, count: int) -> np.ndarray:
        """The samples nearest to the centroid, nearest first."""
        return self.members(cluster)[:count]

    def farthest(self, cluster: int, count: int) -> np.ndarray:
        """The samples farthest from the centroid, farthest first, without those that are among the nearest."""
        members = self.members(cluster)
        return members[count:][::-1][:count] if self.distances is not None else members[:0]

    def at_border(self, cluster: int, count: int) -> np.ndarray:
        """The samples that are nearly as near to another centroid: the smallest margin for their distance first."""
        members = self.members(cluster)
        if self.margins is None or self.distances is None or self.num_clusters == 1:
            return members[:0]
        relative = self.margins[members] / np.maximum(self.distances[members], np.finfo(np.float32).tiny)
        return members[np.argsort(relative, kind="stable")[:count]]

    @property
    def empty(self) -> np.ndarray:
        """The clusters without a sample."""
        return np.flatnonzero(self.sizes == 0)

    @property
    def giants(self) -> np.ndarray:
        """The clusters of :data:`GIANT` times the median one of those that are not empty, the largest first."""
        filled = self.sizes[self.sizes > 0]
        found = np.flatnonzero(self.sizes >= GIANT * np.median(filled)) if len(filled) else filled
        return found[np.argsort(-self.sizes[found], kind="stable")]


def group_by_cluster(
    labels: np.ndarray,
    num_clusters: int,
    distances: np.ndarray | None = None,
    margins: np.ndarray | None = None,
    tolerance: float = 0.05,
) -> Clusters:
    """Groups samples by their label.

    Args:
        labels: int64 (N,); -1 for samples without one.
        num_clusters: K.
        distances: float32 (N,), squared; None where they are not known: then the samples of a cluster are in order.
        margins: float32 (N,); None likewise.
        tolerance: see :class:`Clusters`.
    """
    labelled = np.flatnonzero(labels >= 0)
    own = labels[labelled]
    by = (own,) if distances is None else (distances[labelled], own)
    order = labelled[np.lexsort(by)]
    sizes = np.bincount(own, minlength=num_clusters)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    mean_distances = undecided = np.full(num_clusters, np.nan)
    if distances is not None and margins is not None:
        mean_distances = _means(distances[labelled], own, sizes)
        undecided = _means(margins[labelled] <= tolerance * distances[labelled], own, sizes)
    return Clusters(sizes, order, starts, distances, margins, mean_distances, undecided)


def _means(values: np.ndarray, own: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    sums = np.bincount(own, weights=values, minlength=len(sizes))
    return np.divide(sums, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)


def chosen_clusters(clusters: Clusters, count: int, seed: int = 0) -> dict[str, list[int]]:
    """Which clusters are worth a look: a few of the largest, the smallest, the least compact, and random ones.

    No cluster is named twice; empty ones are left out.
    """
    filled = np.flatnonzero(clusters.sizes > 0)
    sizes = clusters.sizes[filled]
    kinds = {
        "largest": filled[np.argsort(-sizes, kind="stable")],
        "smallest": filled[np.argsort(sizes, kind="stable")],
        "least compact": filled[np.argsort(-clusters.mean_distances[filled], kind="stable")],
        "random": np.random.default_rng(seed).permutation(filled),
    }
    if clusters.distances is None:
        del kinds["least compact"]
    taken: set[int] = set()
    chosen = {}
    for kind, ranked in kinds.items():
        chosen[kind] = [int(cluster) for cluster in ranked[: count + len(taken)] if cluster not in taken][:count]
        taken.update(chosen[kind])
    return {kind: found for kind, found in chosen.items() if found}
