"""What became of the clusters of a codebook that a clustering went on from: their numbers stay, their places may not.

Legend: K clusters, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.search.protocol import SearchFactory

# The manifest lists so many numbers of each kind.
_LISTED = 1000


@dataclass(frozen=True, eq=False)
class ClusterChanges:
    """Which clusters are not what they were, by number.

    Attributes:
        moved: whose centroid is now nearer to where another one was: their numbers mean something else.
        split: of the clusters before, those that others have moved to while the cluster itself stayed.
        emptied: that had samples and have none.
        mean_shift: the mean distance from where a centroid was to where it is.
    """

    moved: np.ndarray
    split: np.ndarray
    emptied: np.ndarray
    mean_shift: float

    def facts(self, before: Codebook) -> dict[str, Any]:
        """All of it, for the manifest."""
        numbers = {"moved": self.moved, "split": self.split, "emptied": self.emptied}
        return {
            "codebook": before.content_hash,
            **{f"num_{name}": len(which) for name, which in numbers.items()},
            **{name: which[:_LISTED].tolist() for name, which in numbers.items()},
            "mean_shift": self.mean_shift,
        }

    def __str__(self) -> str:
        """In words, for the log."""
        return (
            f"Of the clusters it started from, {len(self.moved)} have moved to where another one was, "
            f"{len(self.split)} are shared with such, {len(self.emptied)} are empty now; the others stayed."
        )


def changes_since(
    before: Codebook, centroids: np.ndarray, counts: np.ndarray, search_factory: SearchFactory
) -> ClusterChanges:
    """Holds clusters against those that they started from.

    Args:
        before: what the clustering started from.
        centroids: (K, D) float32, in the same space.
        counts: (K,) int64, the samples of each.
        search_factory: makes a search of centroids.
    """
    own = np.arange(len(centroids))
    nearest, distances = (found[:, 0] for found in search_factory(before.centroids).nearest(centroids))
    # Where two were at the same place, each is its own.
    shifts = np.square(centroids.astype(np.float64) - before.centroids).sum(axis=1)
    nearest = np.where(shifts <= distances * (1 + 1e-6), own, nearest)
    moved = np.flatnonzero(nearest != own)
    stayed = own[nearest == own]
    return ClusterChanges(
        moved,
        np.intersect1d(nearest[moved], stayed),
        np.flatnonzero((counts == 0) & (before.counts > 0)),
        float(np.sqrt(shifts).mean()),
    )
