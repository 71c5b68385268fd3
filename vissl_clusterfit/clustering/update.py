"""Lloyd's update: centroids become the means of their vectors, and empty clusters take over vectors of others.

Legend: K clusters, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch

from vissl_clusterfit.clustering.protocol import ClusterSums, Farthest, VectorSource
from vissl_clusterfit.search.threads import parallel_map

# Numbers of the centroids whose means are computed at a time: they stay in the processor's cache.
_MEANS_VALUES = 1 << 15


def means(parts: list[ClusterSums], counts: np.ndarray, centroids: np.ndarray, spherical: bool) -> np.ndarray:
    """The new centroids; that of an empty cluster stays where it was."""
    moved = centroids.copy()

    def move(block: slice) -> None:
        filled = counts[block] > 0
        total = torch.zeros(
            moved[block].shape, dtype=torch.float64
        )  # its operations leave other threads the interpreter
        for part in parts:
            total += torch.from_numpy(part.sums[block])
        new = total.numpy()[filled] / counts[block][filled, None]
        if spherical:
            norms = np.linalg.norm(new, axis=1, keepdims=True)
            # The mean of opposite vectors has no direction.
            has_direction = norms > np.finfo(np.float32).eps
            new = np.where(has_direction, new / np.maximum(norms, 1e-300), moved[block][filled])
        moved[block][filled] = new

    # In blocks: float64 copies of all sums would be the most memory that k-means takes.
    size = max(1, _MEANS_VALUES // moved.shape[1])
    parallel_map(move, [slice(low, low + size) for low in range(0, len(moved), size)])
    return moved


def fill_empty(
    centroids: np.ndarray,
    counts: np.ndarray,
    farthest: Farthest,
    source: VectorSource,
    fresh: ClusterSums | None = None,
) -> int:
    """Moves centroids of empty clusters, in place, onto vectors that are far from theirs, and counts these for them.

    Args:
        centroids: (K, D) float32.
        counts: (K,) int64, of all vectors.
        farthest: of each cluster.
        source: of the vectors.
        fresh: the sums of the share in which the farthest vectors were looked for, where a later iteration needs them.

    Returns:
        How many were moved.
    """
    empty = np.flatnonzero(counts == 0)
    # Nearer than twice float32's resolution is as good as on the centroid.
    on_centroid = (2 * np.finfo(np.float32).eps) ** 2 * np.einsum("kd,kd->k", centroids, centroids)
    donors = np.flatnonzero((counts > 1) & (farthest.distances > on_centroid))
    donors = donors[np.argsort(-farthest.distances[donors], kind="stable")][: len(empty)]
    donors = donors[np.argsort(farthest.positions[donors])]
    taken = source.take(farthest.positions[donors])
    empty = empty[: len(donors)]
    centroids[empty] = taken
    in_sums = () if fresh is None else ((fresh.sums, taken), (fresh.counts, 1))
    for of_each, one in (*in_sums, (counts, 1)):
        of_each[donors] -= one
        of_each[empty] += one
    return len(donors)
