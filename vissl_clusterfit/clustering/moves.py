"""Which samples leave clusters that are too full, along chains of clusters, for the least added cost.

With good prices, what is left in excess is little, and many samples are nearly indifferent between two clusters. Where
A is too full and C has room, moving one such sample from A to B and another one from B to C costs little, though no
sample of A is near C. Chains are found as shortest paths in the graph of clusters whose edges are the most indifferent
samples of each: the successive shortest paths of a minimum-cost flow, without its way back. A heuristic, then; but no
move makes a cluster larger than the limit.

Legend: K clusters, M samples kept of each, n samples of a chunk.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# So many of the cheapest ways out of each cluster are kept, or more where there are few clusters.
_KEPT, _KEPT_OF_ALL = 32, 1 << 17
# The search for chains stops after so many edges, which takes about half a minute.
_MOST_EDGES = 20_000_000


@dataclass(frozen=True, eq=False)
class Moves:
    """Samples that leave their clusters.

    Attributes:
        samples: (m,) int64, which, ascending.
        sources: (m,) int64, the clusters that they leave.
        goals: (m,) int64, where they go.
        sizes: (K,) int64, the samples of each cluster afterwards.
        margins: how much more all of them cost.
        marginal: (K,) float64, how much one more sample of each cluster would: by so much its price is too low.
    """

    samples: np.ndarray
    sources: np.ndarray
    goals: np.ndarray
    sizes: np.ndarray
    margins: float
    marginal: np.ndarray


class Indifferent:
    """Of each cluster the M cheapest ways out of it, pairs of a sample and another cluster, in memory of K·M.

    Args:
        num_clusters: K.
    """

    def __init__(self, num_clusters: int) -> None:
        self._num_clusters = num_clusters
        self._kept = max(_KEPT, _KEPT_OF_ALL // num_clusters)
        self._worst = np.full(num_clusters, np.inf)
        self._found = np.zeros(0, dtype=[("own", "i8"), ("margin", "f4"), ("sample", "i8"), ("other", "i8")])

    def add(self, samples: np.ndarray, clusters: np.ndarray, costs: np.ndarray) -> None:
        """Looks at n samples.

        Args:
            samples: (n,) int64, which.
            clusters: (n, count) int64, the cheapest clusters of each, first its own.
            costs: (n, count) float32, what each costs.
        """
        count = clusters.shape[1] - 1
        own, samples = clusters[:, 0].repeat(count), samples.repeat(count)
        other, margins = clusters[:, 1:].ravel(), np.maximum(costs[:, 1:] - costs[:, :1], 0).ravel()
        near = margins <= self._worst[own]
        new = np.empty(int(near.sum()), dtype=self._found.dtype)
        for name, values in (("own", own), ("margin", margins), ("sample", samples), ("other", other)):
            new[name] = values[near]
        found = np.concatenate([self._found, new])
        found = found[np.lexsort((found["other"], found["sample"], found["margin"], found["own"]))]
        first = np.searchsorted(found["own"], np.arange(self._num_clusters))
        ranks = np.arange(len(found)) - first[found["own"]]
        last = found[ranks == self._kept - 1]
        self._worst[last["own"]] = last["margin"]
        self._found = found[ranks < self._kept]

    def moves(self, sizes: np.ndarray, limit: int) -> Moves:
        """Chains of moves from clusters with more than ``limit`` samples to those with room.

        Args:
            sizes: (K,) int64.
            limit: of each cluster.
        """
        sizes, graph = sizes.copy(), _Graph(self._num_clusters, self._found)
        moves: list[tuple[int, int, int]] = []
        margins = []
        for full in np.flatnonzero(sizes > limit).tolist():
            while sizes[full] > limit:
                chain = graph.cheapest_chain(full, sizes < limit)
                if not chain:
                    break
                for own, other in chain:
                    margin, sample = graph.take(own, other)
                    moves.append((sample, own, other))
                    margins.append(margin)
                sizes[full] -= 1
                sizes[chain[-1][1]] += 1
        pairs = np.array(sorted(moves), dtype=np.int64).reshape(-1, 3)
        return Moves(*pairs.T, sizes, math.fsum(margins), graph.ways_to(sizes < limit))


class _Graph:
    """The clusters, with an edge for each way from one to another: the samples that can go it, the cheapest last."""

    def __init__(self, num_clusters: int, found: np.ndarray) -> None:
        self._edges: list[dict[int, list[tuple[float, int]]]] = [{} for _ in range(num_clusters)]
        for own, margin, sample, other in found[::-1].tolist():
            self._edges[own].setdefault(other, []).append((margin, sample))
        self._gone: set[int] = set()
        #: Clusters from which no room can be reached any more: edges and room only become fewer.
        self._dead: set[int] = set()
        self._left = _MOST_EDGES

    def take(self, own: int, other: int) -> tuple[float, int]:
        """Margin and number of the cheapest sample of an edge that a chain has, which then is no more."""
        margin, sample = self._edges[own][other].pop()
        self._gone.add(sample)
        return margin, sample

    def _ways(self, own: int) -> Iterator[tuple[int, float]]:
        for other, samples in self._edges[own].items():
            while samples and samples[-1][1] in self._gone:
                samples.pop()
            if samples:
                yield other, samples[-1][0]

    def cheapest_chain(self, start: int, has_room: np.ndarray) -> list[tuple[int, int]]:
        """Pairs of clusters, from ``start`` to one with room, by Dijkstra's search; none if there is no way."""
        best, before, done = {start: 0.0}, {start: start}, set(self._dead)
        queue = [(0.0, start)]
        while queue and self._left > 0:
            cost, cluster = heapq.heappop(queue)
            if cluster in done:
                continue
            if has_room[cluster]:
                chain = []
                while cluster != start:
                    chain.append((before[cluster], cluster))
                    cluster = before[cluster]
                return chain[::-1]
            done.add(cluster)
            for other, margin in self._ways(cluster):
                self._left -= 1
                if other not in done and cost + margin < best.get(other, np.inf):
                    best[other], before[other] = cost + margin, cluster
                    heapq.heappush(queue, (best[other], other))
        if self._left > 0:
            self._dead = done
        return []

    def ways_to(self, has_room: np.ndarray) -> np.ndarray:
        """What it costs to bring one more sample from each cluster to one with room, (K,); the most where none can."""
        before: list[list[tuple[int, float]]] = [[] for _ in self._edges]
        for own in range(len(self._edges)):
            for other, margin in self._ways(own):
                before[other].append((own, margin))
        costs = np.full(len(self._edges), np.inf)
        queue = [(0.0, cluster) for cluster in np.flatnonzero(has_room).tolist()]
        while queue:
            cost, cluster = heapq.heappop(queue)
            if cost < costs[cluster]:
                costs[cluster] = cost
                for own, margin in before[cluster]:
                    if cost + margin < costs[own]:
                        heapq.heappush(queue, (cost + margin, own))
        reached = np.isfinite(costs)
        return np.where(reached, costs, costs[reached].max(initial=0.0))
