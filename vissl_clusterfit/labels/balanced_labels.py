"""Labels of one chunk after the other within a bound on the size of clusters, once prices and moves are known.

Legend: n samples of a chunk, D dimensions, K clusters, L samples that a cluster may have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.labels.auction import ExactSum, PricedSearch
from vissl_clusterfit.labels.min_cost_flow import Reassignments

# The samples without room that are searched at a time, and their candidates.
_ROWS_AT_A_TIME, _CANDIDATES = 64, 8


@dataclass(frozen=True, eq=False)
class FirstChoices:
    """Which clusters some samples choose; what takes the time, and depends on no other sample.

    Attributes:
        labels: (n,) int64, the cheapest clusters, or where a sample is to move.
        moves: (n,) bool, which have to move.
        nearest: (n,) int64, the nearest centroids.
        least: (n,) float32, squared distances to these.
        distances: (n,) float32, to the clusters of ``labels``.
        margins: (n,) float32, how much farther the second nearest centroids are than the nearest ones.
    """

    labels: np.ndarray
    moves: np.ndarray
    nearest: np.ndarray
    least: np.ndarray
    distances: np.ndarray
    margins: np.ndarray


class BalancedAssignment:
    """Labels such that no cluster has more than L samples. Chunks are labelled in the order of the samples, all once.

    What the samples of a chunk choose is found anywhere; who finds room depends on those before: one process says it.

    Args:
        codebook: the centroids.
        search: of the cheapest clusters.
        sizes: (K,) int64, for how many samples each is that.
        moves: the samples that leave theirs.
        limit: L.
        facts: what the manifest says of how these were found.
    """

    def __init__(
        self,
        codebook: Codebook,
        search: PricedSearch,
        sizes: np.ndarray,
        moves: Reassignments,
        limit: int,
        facts: dict[str, Any],
    ) -> None:
        self._prepare, self._centroids = codebook.preprocessing.apply, codebook.centroids
        self._search, self._facts = search, facts
        self._movers, self._goals = moves.samples, moves.goals
        coming, leaving = (np.bincount(ends, minlength=codebook.num_clusters) for ends in (moves.goals, moves.sources))
        # No more come to a cluster than its limit, so that all three together are the limit.
        assert (coming <= limit).all(), "more samples move to a cluster than it may have"
        #: How many that neither move nor must make room each cluster takes yet, and how many of the latter.
        self._places = np.minimum(sizes - leaving, limit - coming)
        self._room = limit - coming - self._places
        self._sizes = np.zeros(codebook.num_clusters, dtype=np.int64)
        self._cost, self._num_in_order, self._num_elsewhere = ExactSum(), 0, 0

    def choose(
        self, samples: np.ndarray, rows_nD: np.ndarray, nearest: np.ndarray, least: np.ndarray, margins: np.ndarray
    ) -> FirstChoices:
        """What some samples choose, on whatever thread or process.

        Args:
            samples: (n,) int64, their indices.
            rows_nD: (n, D) float32, their features.
            nearest: (n,) int64, their nearest centroids.
            least: (n,) float32, squared distances to these.
            margins: (n,) float32, how much farther the second nearest ones are.
        """
        rows_nD = self._prepare(rows_nD)
        labels = self._search.labels(rows_nD)
        place = np.minimum(np.searchsorted(self._movers, samples), max(0, len(self._movers) - 1))
        moves = self._movers[place] == samples if len(self._movers) else np.zeros(len(samples), dtype=bool)
        if moves.any():
            labels[moves] = self._goals[place[moves]]
        distances, elsewhere = least.copy(), labels != nearest
        distances[elsewhere] = _squared_distances(rows_nD[elsewhere], self._centroids[labels[elsewhere]])
        return FirstChoices(labels, moves, nearest, least, distances, margins)

    def assign(
        self, choices: FirstChoices, rows_of: Callable[[], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels of the next samples, and the distances and margins that belong to them.

        Args:
            choices: of all samples of a chunk.
            rows_of: gives their features (n, D), where some find no room.

        Returns:
            Labels (n,); distances to their centroids; margins, 0 where the label is not the nearest centroid.
        """
        labels, distances = choices.labels.copy(), choices.distances
        # Of those whose first choice is the same cluster, the first ones stay.
        stays = ~choices.moves
        stays[stays] = _ranks(labels[stays]) < self._places[labels[stays]]
        self._places -= np.bincount(labels[stays], minlength=len(self._places))
        crowded_out = np.flatnonzero(~stays & ~choices.moves)
        if len(crowded_out):
            rows_nD = self._prepare(rows_of())[crowded_out]
            for low in range(0, len(crowded_out), _ROWS_AT_A_TIME):
                some = slice(low, low + _ROWS_AT_A_TIME)
                labels[crowded_out[some]] = self._with_room(rows_nD[some])
            distances = distances.copy()
            far = labels[crowded_out] != choices.nearest[crowded_out]
            distances[crowded_out] = choices.least[crowded_out]
            distances[crowded_out[far]] = _squared_distances(rows_nD[far], self._centroids[labels[crowded_out[far]]])
        elsewhere = labels != choices.nearest
        self._sizes += np.bincount(labels, minlength=len(self._sizes))
        self._cost.add(distances)
        self._num_in_order += len(crowded_out)
        self._num_elsewhere += int(elsewhere.sum())
        return labels, distances, np.where(elsewhere, np.float32(0), choices.margins)

    def _with_room(self, rows_nD: np.ndarray) -> np.ndarray:
        """The cheapest clusters with room of rows (n, D), one after the other."""
        labels: list[int] = []
        while len(labels) < len(rows_nD):
            if not self._room.any():
                # A search of another number of clusters may settle a tie otherwise (faiss): places kept for samples
                # that chose another cluster in the end are all that is left.
                self._room, self._places = self._places, self._room
            clusters = np.flatnonzero(self._room > 0)
            candidates = self._search.among(clusters, rows_nD[len(labels) :], min(_CANDIDATES, len(clusters)))
            for row in candidates:
                free = row[self._room[row] > 0]
                if not len(free):  # those that were free are full by now: search among the rest
                    break
                labels.append(int(free[0]))
                self._room[free[0]] -= 1
        return np.array(labels, dtype=np.int64)

    def facts(self) -> dict[str, Any]:
        """What the manifest says, once all samples have a label."""
        mean_distance = self._cost.value() / max(1, int(self._sizes.sum()))
        return {
            **self._facts,
            "largest": int(self._sizes.max()),
            "num_not_nearest": self._num_elsewhere,
            "num_settled_in_order": self._num_in_order,
            "mean_distance": mean_distance,
            # Above the mean by the rounding of distances alone.
            "mean_distance_at_least": min(self._facts["mean_distance_at_least"], mean_distance),
        }


def _ranks(labels: np.ndarray) -> np.ndarray:
    """How many before each have the same label."""
    order = labels.argsort(kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - first
    return ranks


def _squared_distances(rows_nD: np.ndarray, centroids_nD: np.ndarray) -> np.ndarray:
    return ((rows_nD.astype(np.float64) - centroids_nD) ** 2).sum(axis=1).astype(np.float32)
