"""How the samples of clusters are spread over other groups: another run's clusters, folders, true classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Flow:
    """The pairs of a cluster and a group that have samples in common; memory follows their number, not K times L.

    Attributes:
        clusters: int64 (P,): of each pair the cluster, ascending, and of a cluster the largest share first.
        groups: int64 (P,): of each pair the group.
        counts: int64 (P,): their samples in common.
        cluster_sizes: int64 (K,): samples with a cluster and a group, by cluster.
        group_sizes: int64 (L,): the same samples by group.
    """

    clusters: np.ndarray
    groups: np.ndarray
    counts: np.ndarray
    cluster_sizes: np.ndarray
    group_sizes: np.ndarray

    def of(self, cluster: int, most: int) -> list[tuple[int, int]]:
        """The groups of a cluster's samples, the most frequent first, each with its number of them."""
        low, high = np.searchsorted(self.clusters, [cluster, cluster + 1])
        high = min(high, low + most)
        return list(zip(self.groups[low:high].tolist(), self.counts[low:high].tolist(), strict=True))

    @property
    def main_groups(self) -> np.ndarray:
        """The most frequent group of each cluster, int64 (K,); -1 for a cluster without samples."""
        return self._of_first(self.groups, -1)

    @property
    def main_shares(self) -> np.ndarray:
        """The share of the most frequent group in each cluster, float64 (K,): its purity; NaN without samples."""
        counts = self._of_first(self.counts, 0)
        return _over(counts, self.cluster_sizes)

    def _of_first(self, values: np.ndarray, missing: int) -> np.ndarray:
        found = np.full(len(self.cluster_sizes), missing, dtype=np.int64)
        firsts = np.flatnonzero(np.diff(self.clusters, prepend=-1))
        found[self.clusters[firsts]] = values[firsts]
        return found

    @property
    def stability(self) -> np.ndarray:
        """Of each cluster the Jaccard coefficient with the group that is most like it, float64 (K,); NaN if empty.

        Samples in common over samples in either: 1 for a cluster that is found again, as Hennig, "Cluster-wise
        assessment of cluster stability", Computational Statistics & Data Analysis 52 (2007), has it.
        """
        in_either = self.cluster_sizes[self.clusters] + self.group_sizes[self.groups] - self.counts
        best = np.full(len(self.cluster_sizes), np.nan)
        np.fmax.at(best, self.clusters, self.counts / in_either)
        return best


def flow(labels: np.ndarray, groups: np.ndarray, num_clusters: int, num_groups: int) -> Flow:
    """Counts the pairs of a cluster and a group.

    Args:
        labels: int64 (N,); -1 for samples without a cluster, which are left out.
        groups: int64 (N,); -1 for samples without a group, likewise.
        num_clusters: K.
        num_groups: L.
    """
    both = (labels >= 0) & (groups >= 0)
    keys, counts = np.unique(labels[both] * np.int64(num_groups) + groups[both], return_counts=True)
    clusters, others = np.divmod(keys, num_groups)
    order = np.lexsort((others, -counts, clusters))
    return Flow(
        clusters[order],
        others[order],
        counts[order],
        np.bincount(labels[both], minlength=num_clusters),
        np.bincount(groups[both], minlength=num_groups),
    )


def _over(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.divide(counts, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
