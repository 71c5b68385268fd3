"""Prices that keep clusters from growing too large: a sample takes the cluster with the least distance plus price.

This is the dual of the transport problem "the least total distance such that no cluster has more than L samples", which
auctions solve (Bertsekas, 1988). A pass over the data raises the prices of clusters that are too full and lowers those
of the others, each by a step of its own that grows while the sign stays and shrinks when it turns (as in Rprop,
Riedmiller and Braun, 1993). Only counts decide, so prices are the same whatever the chunks.

Legend: n vectors of a chunk, D dimensions, K clusters, L samples that a cluster may have.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vissl_clusterfit.clustering.protocol import ChunkTask, VectorSource
from vissl_clusterfit.progress import DETAIL
from vissl_clusterfit.search.protocol import SearchFactory

logger = logging.getLogger(__name__)

# At most so many passes; where there are many vectors, the first ones see a sample.
MOST_PASSES, _SAMPLE_PASSES = 48, 24
_VECTORS_PER_CLUSTER = 256
_SMALLEST_SHARE = 1 / 16
# Sizes hold when no more than this share of the vectors is in excess; what is left over is settled one by one.
_TOLERATED = 1 / 1000
_GROWTH, _SHRINKAGE = 1.3, 0.5


class PricedSearch:
    """The clusters of least squared distance plus price.

    |x - c|² + h² is the squared distance of (x, 0) and (c, h): one more dimension makes it a search of the nearest, as
    exact as the given one. The price is the square of h in float32.

    Args:
        centroids: (K, D) float32.
        prices: (K,) float64, at least 0.
        factory: makes a search of centroids.
    """

    def __init__(self, centroids: np.ndarray, prices: np.ndarray, factory: SearchFactory) -> None:
        heights = np.sqrt(prices).astype(np.float32)
        self.prices = heights.astype(np.float64) ** 2
        self._points = np.concatenate([centroids, heights[:, None]], axis=1)
        self._factory = factory
        self._search = factory(self._points)
        self.num_threads, self.num_rows = self._search.num_threads, self._search.num_rows

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` cheapest clusters of (n, D) float32, the cheapest first, and distances plus prices."""
        return self._search.nearest(_with_zero(rows_nD), count)

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The cheapest clusters of (n, D) float32, as (n,) int64."""
        return self._search.labels(_with_zero(rows_nD))

    def among(self, clusters: np.ndarray, rows_nD: np.ndarray, count: int) -> np.ndarray:
        """As ``nearest``, of these clusters (sorted) alone: (n, count) int64."""
        return clusters[self._factory(self._points[clusters]).nearest(_with_zero(rows_nD), count)[0]]


def _with_zero(rows_nD: np.ndarray) -> np.ndarray:
    return np.concatenate([rows_nD, np.zeros((len(rows_nD), 1), dtype=np.float32)], axis=1)


class ExactSum:
    """A sum of float32 numbers >= 0 that does not depend on their order: integers, one for each power of two."""

    def __init__(self) -> None:
        self._total = 0

    def add(self, values: np.ndarray) -> None:
        """Adds (n,) float32."""
        mantissas, exponents = np.frexp(values.astype(np.float64))
        parts = np.bincount(exponents + 160, weights=mantissas * 2.0**24)  # whole numbers, below 2^53
        self._total += sum(int(part) << power for power, part in enumerate(parts))

    def add_sum(self, other: ExactSum) -> None:
        """Adds what another one has added up."""
        self._total += other._total

    def value(self) -> float:
        """The sum, correctly rounded."""
        return self._total / (1 << 184)


def total(source: VectorSource, own: ExactSum) -> ExactSum:
    """What all processes that have a part of a source have added up."""
    whole = ExactSum()
    for part in source.gather(own):
        whole.add_sum(part)
    return whole


@dataclass(frozen=True, eq=False)
class PriceState:
    """Prices after some passes; enough to go on from.

    Attributes:
        num_passes: that have changed prices.
        nearest_cost: the mean squared distance of a vector to its nearest centroid.
        prices: (K,) float64, those of the next pass.
        steps: (K,) float64.
        signs: (K,) float64, where each price went last: -1, 0 or 1.
        best_misfit: the share of vectors in excess at ``best``, of those passes that saw all vectors.
        best: (K,) float64, the prices with the fewest vectors in excess.
        settled: no more passes are needed.
    """

    num_passes: int
    nearest_cost: float
    prices: np.ndarray
    steps: np.ndarray
    signs: np.ndarray
    best_misfit: float
    best: np.ndarray
    settled: bool

    def pack(self) -> np.ndarray:
        """All of it as one array of float64."""
        scalars = [self.num_passes, self.nearest_cost, self.best_misfit, self.settled]
        return np.concatenate([np.array(scalars, dtype=np.float64), self.prices, self.steps, self.signs, self.best])

    @classmethod
    def unpack(cls, packed: np.ndarray) -> PriceState:
        """The inverse of :meth:`pack`."""
        num_passes, nearest_cost, best_misfit, settled = packed[:4].tolist()
        prices, steps, signs, best = packed[4:].reshape(4, -1)
        return cls(int(num_passes), nearest_cost, prices, steps, signs, best_misfit, best, bool(settled))


def solve_prices(
    source: VectorSource,
    centroids: np.ndarray,
    limit: int,
    factory: SearchFactory,
    *,
    resume_from: PriceState | None = None,
    on_pass: Callable[[PriceState], None] | None = None,
) -> PriceState:
    """Passes over a source until no cluster has more than ``limit`` vectors, but for a few, or there were enough.

    Args:
        source: the vectors. All processes that have a part of it call this together, and have the same result.
        centroids: (K, D) float32.
        limit: L.
        factory: makes a search of centroids.
        resume_from: resume after this state; the result is that of a run that was not stopped.
        on_pass: called with the state after every pass.
    """
    state = resume_from or _first(source, centroids, limit, factory)
    share = _sample_share(source.num_vectors, len(centroids))
    while not state.settled:
        on_sample = share < 1 and state.num_passes < _SAMPLE_PASSES
        state = _pass(source, centroids, limit, factory, state, share if on_sample else 1.0)
        if on_pass is not None:
            on_pass(state)
    return state


def _sample_share(num_vectors: int, num_clusters: int) -> float:
    share = 1.0
    while share / 2 >= _SMALLEST_SHARE and num_vectors * share / 2 >= _VECTORS_PER_CLUSTER * num_clusters:
        share /= 2
    return share


def _first(source: VectorSource, centroids: np.ndarray, limit: int, factory: SearchFactory) -> PriceState:
    """Free clusters: who is nearest, how far, and how much a price must be to matter."""
    num_clusters, search = len(centroids), factory(centroids)
    sizes, distances, margins = np.zeros(num_clusters, dtype=np.int64), ExactSum(), ExactSum()

    def look(_: np.ndarray, __: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> None:
        labels, near = found
        sizes[:] += np.bincount(labels[:, 0], minlength=num_clusters)
        distances.add(near[:, 0])
        margins.add(np.maximum(near[:, -1] - near[:, 0], 0))

    source.over_chunks(
        ChunkTask(look, functools.partial(search.nearest, count=min(2, num_clusters)), search.num_threads)
    )
    sizes = np.sum(source.gather(sizes), axis=0)
    distances, margins = total(source, distances), total(source, margins)
    number = max(1, source.num_vectors)
    excess, zeros = int(np.maximum(sizes - limit, 0).sum()), np.zeros(num_clusters)
    step = (margins.value() or distances.value()) / number / 2
    cost = distances.value() / number
    # Where all vectors are on centroids that are equal, prices move nothing.
    return PriceState(0, cost, zeros, zeros + step, zeros, excess / number, zeros, excess == 0 or step == 0)


def _pass(
    source: VectorSource,
    centroids: np.ndarray,
    limit: int,
    factory: SearchFactory,
    state: PriceState,
    share: float,
) -> PriceState:
    search, sizes = PricedSearch(centroids, state.prices, factory), np.zeros(len(centroids), dtype=np.int64)

    def count(_: np.ndarray, __: np.ndarray, labels: np.ndarray) -> None:
        sizes[:] += np.bincount(labels, minlength=len(sizes))

    source.over_chunks(ChunkTask(count, search.labels, search.num_threads), (0.0, share))
    sizes = np.sum(source.gather(sizes), axis=0)
    seen = max(1, int(sizes.sum()))
    capacity = limit * (seen / source.num_vectors)
    excess = float(np.maximum(sizes - capacity, 0).sum()) / seen
    number = state.num_passes + 1
    logger.info(
        "Prices after pass %d, over %.3g %% of the samples: %.3g %% of them are in excess.",
        number,
        100 * share,
        100 * excess,
        extra=DETAIL,
    )
    over = sizes / capacity - 1
    signs = np.sign(over) * ((over > 0) | (state.prices > 0))
    turned = signs * state.signs
    steps = state.steps * np.where(turned > 0, _GROWTH, np.where(turned < 0, _SHRINKAGE, 1.0))
    moved = np.maximum(0.0, state.prices + signs * steps * np.sqrt(np.minimum(1.0, np.abs(over))))
    # A price of a cluster that is not full keeps samples from it for nothing.
    idle = math.fsum(state.prices * np.maximum(capacity - sizes, 0)) / seen
    idle /= state.nearest_cost or float(state.prices.max()) or 1.0
    if share == 1 and excess + idle < state.best_misfit:
        state = replace(state, best_misfit=excess + idle, best=state.prices)
    settled = share == 1 and (excess + idle <= _TOLERATED or number >= MOST_PASSES)
    return replace(state, num_passes=number, prices=moved, steps=steps, signs=signs, settled=settled)
