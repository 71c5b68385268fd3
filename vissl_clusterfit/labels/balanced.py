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

import numpy as np

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.protocol import ChunkTask
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.auction import MOST_PASSES, ExactSum, PricedSearch, PriceState, solve_prices, total
from vissl_clusterfit.labels.balanced_labels import BalancedAssignment
from vissl_clusterfit.labels.min_cost_flow import CandidateArcs, Reassignments
from vissl_clusterfit.progress.step import Progress
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
    """Finds prices and moves, in some dozen passes over the samples, which all processes of the run share.

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
        part = distributed.rank(), distributed.world_size()
        self._source = StoreSource(store, codebook.preprocessing, part=part)
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
        return BalancedAssignment(self._codebook, best.search, best.sizes, best.moves, self._limit, facts)

    def _find_prices(self, kept: Path | None, run: str) -> PriceState:
        centroids = self._codebook.centroids

        def kept_before() -> PriceState | None:
            if kept is not None:
                with contextlib.suppress(ArtifactError):
                    packed = artifacts.read_array(kept, shape=(5 + 4 * len(centroids),), dtype=np.float64)
                    if packed[0] == _mark(run, packed[1:]):
                        return PriceState.unpack(packed[1:])
            return None

        before = distributed.on_primary(kept_before)
        if before is not None:
            logger.info("The search for prices resumes after pass %d.", before.num_passes)

        def write(state: PriceState) -> None:
            if kept is not None:
                packed = state.pack()
                artifacts.write_array(kept, np.insert(packed, 0, _mark(run, packed)))

        def keep(state: PriceState) -> None:
            distributed.on_primary(lambda: write(state))
            progress.set(state.num_passes)

        done = before.num_passes if before is not None else 0
        with Progress("Bounding the sizes of clusters", MOST_PASSES, "passes at most", done=done) as progress:
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
        sizes, priced = np.sum(self._source.gather(sizes), axis=0), total(self._source, priced)
        of_all = distributed.gather_on_primary(indifferent)

        def solve_flow() -> Reassignments:
            arcs = of_all[0]
            for more in of_all[1:]:
                arcs.add_arcs(more)
            return arcs.moves(sizes, self._limit, dead_end_increment=_LIFT * nearest_cost)

        moves = distributed.on_primary(solve_flow)
        # By weak duality, to within the rounding of distances to float32.
        least_cost = (priced.value() - self._limit * math.fsum(search.prices)) / number
        # What the moves cost, and prices of clusters that are not full.
        gap = moves.margins + math.fsum(search.prices * np.maximum(0, self._limit - moves.sizes))
        excess = int(np.maximum(0, moves.sizes - self._limit).sum())
        scale = max(nearest_cost, least_cost) * number
        return _Survey(
            search, sizes, moves, least_cost, (gap / scale if scale else 0.0) + _COST_OF_EXCESS * excess / number
        )


def _mark(run: str, packed: np.ndarray) -> float:
    """What tells prices that were kept from those of another run, and from damaged ones."""
    return float(int(artifacts.content_hash([run, packed.tobytes().hex()])[:12], 16))
