"""Labels with a bound on the size of clusters (balanced assignment), in memory of one chunk and K.

Prices (``auction.py``) make nearly all sizes hold; a flow of indifferent samples (``min_cost_flow.py``) settles most
of the rest; the few that are left go, in the order of the samples, to the cheapest cluster with room. That no cluster
is larger than the bound is exact, and so is the lower bound on what any such labels cost, which says how far from the
best ones these are. That they are near to it is a heuristic.

Legend: N samples, n of a chunk, D dimensions, K clusters, L samples that a cluster may have.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.protocol import ChunkTask
from vissl_clusterfit.clustering.sources import StoreSource
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.auction import ExactSum, PricedSearch, PriceState, solve_prices
from vissl_clusterfit.labels.min_cost_flow import CandidateArcs, Reassignments
from vissl_clusterfit.search.backends import search_factory
from vissl_clusterfit.search.protocol import SearchFactory
from vissl_clusterfit.storage import artifacts

logger = logging.getLogger(__name__)

# Prices are improved after a survey of what is to move, until the cost is so near to the least one.
_MOST_SURVEYS, _TOLERATED_GAP = 8, 0.002
# By how much the prices rise of clusters that nothing seen leads out of, in units of the mean distance.
_LIFT = 0.25
# What a sample may cost that is left in excess, in units of the mean distance.
_COST_OF_EXCESS = 4
# Of so many clusters, the cheapest ones of each sample, ways from one cluster to another are sought.
_CHOICES = 4
# The samples without room that are searched at a time, and their candidates.
_ROWS_AT_A_TIME, _CANDIDATES = 64, 8


def capacity(max_cluster_size: float, num_samples: int, num_clusters: int) -> int:
    """L: ``max_cluster_size`` times the mean size, rounded up; at most all samples.

    The factor counts as the decimal number that it prints as, so that 1.1 times 1,000 samples in 10 clusters are 110.
    """
    limit = Fraction(repr(float(max_cluster_size))) * num_samples / num_clusters
    return num_samples if limit > num_samples else math.ceil(limit)


@dataclass(frozen=True, eq=False)
class _Survey:
    """What a pass over all samples finds with given prices.

    Attributes:
        search: of the cheapest clusters.
        sizes: (K,) int64, for how many samples each is that.
        moves: the samples that leave theirs.
        least_cost: what any labels within the bound cost at least, on the mean.
        relative_gap: by what share these labels cost too much, at most, and a guess for those that are left in excess.
    """

    search: PricedSearch
    sizes: np.ndarray
    moves: Reassignments
    least_cost: float
    relative_gap: float


def solve(
    store: FeatureStore,
    codebook: Codebook,
    device: str,
    max_cluster_size: float,
    kept: Path | None = None,
    run: str = "",
) -> BalancedAssignment:
    """Finds prices and moves, in some dozen passes over the samples.

    Args:
        store: the samples; those that are readable get a label.
        codebook: the centroids.
        device: "cpu" or "cuda".
        max_cluster_size: how much larger than the mean size a cluster may be, at least 1.
        kept: the file in which the state of the prices is saved after every pass; none if None.
        run: identifies what is labelled; the state of another run is not used.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    factory = search_factory(codebook.manifest["cluster_backend"], device)
    return _Solver(store, codebook, max_cluster_size, factory).solve(kept, run)


class _Solver:
    """The passes over the samples that come before the first label."""

    def __init__(
        self, store: FeatureStore, codebook: Codebook, max_cluster_size: float, factory: SearchFactory
    ) -> None:
        self._source = StoreSource(store, codebook.preprocessing)
        self._codebook, self._ratio, self._factory = codebook, max_cluster_size, factory
        self._limit = capacity(max_cluster_size, self._source.num_vectors, codebook.num_clusters)

    def solve(self, kept: Path | None, run: str) -> BalancedAssignment:
        """Prices; then better ones, as long as the samples that must move show how."""
        prices = self._find_prices(kept, run)
        surveys = [self._survey(prices.best, prices.nearest_cost)]
        while surveys[-1].relative_gap > _TOLERATED_GAP and len(surveys) < _MOST_SURVEYS:
            rises = surveys[-1].moves.rises
            if not rises.any():
                break
            surveys.append(self._survey(surveys[-1].search.prices + rises, prices.nearest_cost))
        best = min(surveys, key=lambda survey: survey.relative_gap)
        facts = {
            "max_cluster_size": self._ratio,
            "limit": self._limit,
            "num_price_passes": prices.num_passes,
            "num_moved": len(best.moves.samples),
            "mean_distance_unbounded": prices.nearest_cost,
            "mean_distance_at_least": max(prices.nearest_cost, *(survey.least_cost for survey in surveys)),
        }
        return BalancedAssignment(self._codebook, best, self._limit, facts)

    def _find_prices(self, kept: Path | None, run: str) -> PriceState:
        before, centroids = None, self._codebook.centroids
        if kept is not None:
            with contextlib.suppress(ArtifactError):
                packed = artifacts.read_array(kept, shape=(5 + 4 * len(centroids),), dtype=np.float64)
                if packed[0] == _mark(run, packed[1:]):
                    before = PriceState.unpack(packed[1:])
        if before is not None:
            logger.info("The search for prices resumes after pass %d.", before.num_passes)

        def keep(state: PriceState) -> None:
            if kept is not None:
                packed = state.pack()
                artifacts.write_array(kept, np.insert(packed, 0, _mark(run, packed)))

        return solve_prices(self._source, centroids, self._limit, self._factory, resume_from=before, on_pass=keep)

    def _survey(self, prices: np.ndarray, nearest_cost: float) -> _Survey:
        num_clusters, number = self._codebook.num_clusters, max(1, self._source.num_vectors)
        search = PricedSearch(self._codebook.centroids, prices, self._factory)
        sizes, priced, indifferent = np.zeros(num_clusters, dtype=np.int64), ExactSum(), CandidateArcs(num_clusters)

        def look(positions: np.ndarray, _: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> None:
            clusters, costs = found
            sizes[:] += np.bincount(clusters[:, 0], minlength=num_clusters)
            priced.add(costs[:, 0])
            indifferent.add(self._source.sample_indices(positions), clusters, costs)

        choices = functools.partial(search.nearest, count=min(_CHOICES, num_clusters))
        self._source.over_chunks(ChunkTask(look, choices, search.num_threads))
        moves = indifferent.moves(sizes, self._limit, dead_end_increment=_LIFT * nearest_cost)
        # By weak duality, to within the rounding of distances to float32.
        least_cost = (priced.value() - self._limit * math.fsum(search.prices)) / number
        # What the moves cost, and prices of clusters that are not full.
        gap = moves.margins + math.fsum(search.prices * np.maximum(0, self._limit - moves.sizes))
        excess = int(np.maximum(0, moves.sizes - self._limit).sum())
        scale = max(nearest_cost, least_cost) * number
        return _Survey(
            search, sizes, moves, least_cost, (gap / scale if scale else 0.0) + _COST_OF_EXCESS * excess / number
        )


class BalancedAssignment:
    """Labels such that no cluster has more than L samples. Chunks are labelled in the order of the samples, all once.

    Args:
        codebook: the centroids.
        survey: prices, and the samples that move.
        limit: L.
        facts: what the manifest says of how these were found.
    """

    def __init__(self, codebook: Codebook, survey: _Survey, limit: int, facts: dict[str, Any]) -> None:
        self._prepare, self._centroids = codebook.preprocessing.apply, codebook.centroids
        self._search, moves = survey.search, survey.moves
        self._movers, self._goals, self._facts = moves.samples, moves.goals, facts
        coming, leaving = (np.bincount(ends, minlength=codebook.num_clusters) for ends in (moves.goals, moves.sources))
        # No more come to a cluster than its limit, so that all three together are the limit.
        assert (coming <= limit).all(), "more samples move to a cluster than it may have"
        #: How many that neither move nor must make room each cluster takes yet, and how many of the latter.
        self._places = np.minimum(survey.sizes - leaving, limit - coming)
        self._room = limit - coming - self._places
        self._sizes = np.zeros(codebook.num_clusters, dtype=np.int64)
        self._cost, self._num_in_order, self._num_elsewhere = ExactSum(), 0, 0

    def assign(
        self, samples: np.ndarray, rows_nD: np.ndarray, nearest: np.ndarray, distances: np.ndarray, margins: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels of the next samples, and the distances and margins that belong to them.

        Args:
            samples: (n,) int64, their indices.
            rows_nD: (n, D) float32, their features.
            nearest: (n,) int64, their nearest centroids.
            distances: (n,) float32, to these.
            margins: (n,) float32, how much farther the second nearest ones are.

        Returns:
            Labels (n,); distances to their centroids; margins, 0 where the label is not the nearest centroid.
        """
        rows_nD = self._prepare(rows_nD)
        labels = self._search.labels(rows_nD)
        place = np.minimum(np.searchsorted(self._movers, samples), max(0, len(self._movers) - 1))
        moves = self._movers[place] == samples if len(self._movers) else np.zeros(len(samples), dtype=bool)
        # Of those whose first choice is the same cluster, the first ones stay.
        stays = ~moves
        stays[stays] = _ranks(labels[stays]) < self._places[labels[stays]]
        self._places -= np.bincount(labels[stays], minlength=len(self._places))
        if moves.any():
            labels[moves] = self._goals[place[moves]]
        crowded_out = np.flatnonzero(~stays & ~moves)
        for low in range(0, len(crowded_out), _ROWS_AT_A_TIME):
            some = crowded_out[low : low + _ROWS_AT_A_TIME]
            labels[some] = self._with_room(rows_nD[some])
        self._sizes += np.bincount(labels, minlength=len(self._sizes))
        elsewhere = labels != nearest
        distances = distances.copy()
        distances[elsewhere] = _squared_distances(rows_nD[elsewhere], self._centroids[labels[elsewhere]])
        self._cost.add(distances)
        self._num_in_order += len(crowded_out)
        self._num_elsewhere += int(elsewhere.sum())
        return labels, distances, np.where(elsewhere, np.float32(0), margins)

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


def _mark(run: str, packed: np.ndarray) -> float:
    """What tells prices that were kept from those of another run, and from damaged ones."""
    return float(int(artifacts.content_hash([run, packed.tobytes().hex()])[:12], 16))


def _ranks(labels: np.ndarray) -> np.ndarray:
    """How many before each have the same label."""
    order = labels.argsort(kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - first
    return ranks


def _squared_distances(rows_nD: np.ndarray, centroids_nD: np.ndarray) -> np.ndarray:
    return ((rows_nD.astype(np.float64) - centroids_nD) ** 2).sum(axis=1).astype(np.float32)
