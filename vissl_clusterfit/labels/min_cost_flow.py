"""Which samples leave clusters that are too full, along chains of clusters, for the least added cost.

With good prices, what is left in excess is little, and many samples are nearly indifferent between some clusters. Where
A is too full and C has room, moving one such sample from A to B and another one from B to C costs little, though no
sample of A is near C. The moves are a flow of minimum cost in the graph of clusters, found by successive shortest paths
(Edmonds and Karp, 1972), among the cheapest ways out of each cluster; those that are not kept it does not see. Its
potentials say how to improve the prices.

Legend: K clusters, M ways kept of each, n samples of a chunk, m that move.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# So many of the cheapest ways out of each cluster are kept, or more where there are few clusters.
_KEPT, _KEPT_OF_ALL = 32, 1 << 17
# The search for chains stops after so many edges, which takes about half a minute.
_MOST_EDGES = 20_000_000


@dataclass(frozen=True, eq=False)
class Reassignments:
    """Samples that leave their clusters.

    Attributes:
        samples: (m,) int64, which, ascending.
        sources: (m,) int64, the clusters that they leave.
        goals: (m,) int64, where they go.
        sizes: (K,) int64, the samples of each cluster afterwards; of the goals, at most ``limit`` have come to each.
        margins: how much more all of them cost.
        rises: (K,) float64, by how much prices must rise for these moves to cost nothing.
    """

    samples: np.ndarray
    sources: np.ndarray
    goals: np.ndarray
    sizes: np.ndarray
    margins: float
    rises: np.ndarray


class CandidateArcs:
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
        self._keep(new)

    def add_arcs(self, other: CandidateArcs) -> None:
        """Looks at those that another one has kept, of other samples: then these are those of the samples of both."""
        self._keep(other._found)

    def _keep(self, new: np.ndarray) -> None:
        found = np.concatenate([self._found, new])
        found = found[np.lexsort((found["other"], found["sample"], found["margin"], found["own"]))]
        first = np.searchsorted(found["own"], np.arange(self._num_clusters))
        ranks = np.arange(len(found)) - first[found["own"]]
        last = found[ranks == self._kept - 1]
        self._worst[last["own"]] = last["margin"]
        self._found = found[ranks < self._kept]

    def moves(self, sizes: np.ndarray, limit: int, dead_end_increment: float) -> Reassignments:
        """Chains of moves from clusters with more than ``limit`` samples to those with room.

        Args:
            sizes: (K,) int64.
            limit: of each cluster.
            dead_end_increment: by how much the prices of clusters rise from which no way leads to room.
        """
        sizes, graph = sizes.copy(), _Graph(self._num_clusters, self._found)
        for full in np.flatnonzero(sizes > limit).tolist():
            while sizes[full] > limit:
                chain = graph.cheapest_chain(full, sizes < limit)
                if not chain:
                    break
                graph.move_along(chain)
                sizes[full] -= 1
                sizes[chain[-1]] += 1
        return graph.moves(sizes, limit, dead_end_increment)


class _Graph:
    """The clusters, with an edge for each way from one to another: the samples that can go it, the cheapest first.

    A potential of each cluster keeps the cost of an edge, less that where it begins and plus that where it ends, from
    being negative, also of the way back of a sample that has moved.
    """

    def __init__(self, num_clusters: int, found: np.ndarray) -> None:
        self._edges: list[dict[int, list[tuple[float, int]]]] = [{} for _ in range(num_clusters)]
        #: Of each sample the clusters that it may be in, and what they cost more than its first.
        self._costs: dict[int, dict[int, float]] = {}
        self._first: dict[int, int] = {}
        self._place: dict[int, int] = {}
        for own, margin, sample, other in found.tolist():
            self._edges[own].setdefault(other, []).append((margin, sample))  # sorted, which is a heap
            self._costs.setdefault(sample, {own: 0.0})[other] = margin
            self._first[sample] = self._place[sample] = own
        self._potentials = [0.0] * num_clusters
        #: Clusters from which no room can be reached any more.
        self._dead: set[int] = set()
        self._left = _MOST_EDGES

    def move_along(self, chain: list[int]) -> None:
        """Moves the cheapest sample from each cluster of a chain to the next."""
        for own, other in itertools.pairwise(chain):
            _, sample = heapq.heappop(self._edges[own][other])
            self._place[sample] = other
            costs = self._costs[sample]
            for cluster, cost in costs.items():
                if cluster != other:
                    heapq.heappush(self._edges[other].setdefault(cluster, []), (cost - costs[other], sample))

    def _ways(self, own: int) -> Iterator[tuple[int, float]]:
        for other, samples in self._edges[own].items():
            while samples and self._place[samples[0][1]] != own:
                heapq.heappop(samples)
            if samples:
                yield other, samples[0][0]

    def cheapest_chain(self, start: int, has_room: np.ndarray) -> list[int]:
        """The clusters from ``start`` to one with room, by Dijkstra's search; none if there is no way."""
        best, before, done = {start: 0.0}, {start: start}, {}
        queue = [(0.0, start)]
        while queue and self._left > 0:
            cost, cluster = heapq.heappop(queue)
            if cluster in done or cluster in self._dead:
                continue
            done[cluster] = cost
            if has_room[cluster]:
                for passed, earlier in done.items():
                    self._potentials[passed] += cost - earlier
                chain = [cluster]
                while chain[-1] != start:
                    chain.append(before[chain[-1]])
                return chain[::-1]
            for other, margin in self._ways(cluster):
                self._left -= 1
                # Below zero by rounding alone.
                reached = cost + max(0.0, margin - self._potentials[cluster] + self._potentials[other])
                if other not in done and reached < best.get(other, math.inf):
                    best[other], before[other] = reached, cluster
                    heapq.heappush(queue, (reached, other))
        if self._left > 0:
            self._dead |= done.keys()
        return []

    def moves(self, sizes: np.ndarray, limit: int, dead_end_increment: float) -> Reassignments:
        """What all chains come to; no more samples go to a cluster than it may have.

        A cluster that is too full gives one sample for each that comes as a link of chains. So many can come that they
        alone would be too many: those that would cost the most stay.
        """
        rises = np.array(self._potentials)
        rises[list(self._dead)] += dead_end_increment
        coming: dict[int, list[tuple[float, int]]] = {}
        for sample, place in self._place.items():
            if place != self._first[sample]:
                coming.setdefault(place, []).append((self._costs[sample][place], sample))
        moved, sizes = [], sizes.copy()
        for goal, of_goal in coming.items():
            of_goal.sort()
            moved += [(sample, self._first[sample], goal, cost) for cost, sample in of_goal[:limit]]
            for _, sample in of_goal[limit:]:
                sizes[goal] -= 1
                sizes[self._first[sample]] += 1
        moved.sort()
        pairs = np.array([which[:3] for which in moved], dtype=np.int64)
        samples, sources, goals = pairs.reshape(-1, 3).T
        return Reassignments(samples, sources, goals, sizes, math.fsum(cost for *_, cost in moved), rises)
