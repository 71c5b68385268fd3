"""k-means (paper, section 3) over any ``VectorSource``: Lloyd's iterations, or such that see a part of the vectors."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vissl_clusterfit.clustering.coarse import coarse_clusters, near_points
from vissl_clusterfit.clustering.hierarchical_start import hierarchical_start
from vissl_clusterfit.clustering.initialization import kmeans_plusplus, random_start
from vissl_clusterfit.clustering.minibatches import (
    MinibatchPlan,
    has_settled,
    is_out_of_time,
    seen_again,
    start_share,
    steps,
    width,
)
from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.protocol import ALL, ClusterSums, Fraction, VectorSource
from vissl_clusterfit.clustering.update import fill_empty, means
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.progress import DETAIL
from vissl_clusterfit.search.protocol import SearchFactory

logger = logging.getLogger(__name__)

RANDOM, KMEANS_PLUSPLUS, HIERARCHICAL = "random", "k-means++", "hierarchical"

# After iterations that saw parts, so many passes at most fill clusters that are empty: each cluster gives one vector.
_LAST_FILLS = 8


#: What is known of each share: its vectors as they were last assigned.
Sums = dict[Fraction, ClusterSums]


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """The state after an iteration; the last one is the result.

    Attributes:
        centroids: (K, D) float32, after the update.
        objective: per iteration, the mean squared L2 distance of a vector to its nearest centroid, before the
            update, over the vectors that the iteration saw.
        shares: per iteration, the share of all vectors that it saw.
        repaired: per iteration, how many empty clusters were given a vector.
        counts: (K,) int64, the vectors of each cluster as they were last assigned, of those that were seen.
        num_points: N.
        num_unchanged: how many iterations, up to the last one, have changed no centroid.
        converged: they saw all vectors, so that no further one would change anything.
        retained: the shares whose sums a later iteration needs.
        settled: the objective fell by no more than the tolerance.
        seconds: with a time limit, those of the start and of each iteration.
        timed_out: one more iteration would have exceeded the time limit.
    """

    centroids: np.ndarray
    objective: tuple[float, ...]
    shares: tuple[float, ...]
    repaired: tuple[int, ...]
    counts: np.ndarray
    num_points: int
    num_unchanged: int
    converged: bool
    retained: tuple[Fraction, ...] = ()
    settled: bool = False
    seconds: tuple[float, ...] = ()
    timed_out: bool = False

    @property
    def num_empty(self) -> int:
        """Clusters that stayed empty, because there are fewer distinct vectors than clusters."""
        return int((self.counts == 0).sum())


def require_enough_points(num_clusters: int, num_points: int) -> None:
    """Checks that K is at most the number of vectors.

    Raises:
        ConfigError: it is not.
    """
    if num_clusters > num_points:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.NUM_CLUSTERS",
                found=num_clusters,
                allowed=f"1 to {num_points}, the number of samples whose features can be clustered",
                remedy="Lower it, or add samples.",
            )
        )


def kmeans(
    source: VectorSource,
    num_clusters: int,
    num_iter: int,
    seed: int,
    search_factory: SearchFactory,
    *,
    spherical: bool = False,
    start: str = RANDOM,
    growing: bool = False,
    tolerance: float = 0.0,
    time_limit: float = 0.0,
    initial_centroids: np.ndarray | None = None,
    resume_from: tuple[KMeansResult, Sums] | None = None,
    on_iteration: Callable[[KMeansResult, Sums], None] | None = None,
) -> KMeansResult:
    """Clusters all vectors of a source. All processes of the run call it together, and have the same result.

    Every iteration assigns the vectors and moves each centroid to the mean of its own. An empty cluster takes
    over the farthest vector of another one: the clusters with the farthest vectors give theirs first, one in
    each iteration. So the objective never rises while iterations see all vectors, unless ``spherical`` ones are zero
    or nearly cancel out: such have no direction, and a centroid of theirs is no mean. The loop settles also where there
    are fewer distinct vectors than clusters; those left over stay empty, which the log says. It stops when nothing
    moves. Clusters that are empty when iterations that saw parts are over are given a vector in a few passes more.

    Args:
        source: the vectors; of unit norm when ``spherical``.
        num_clusters: K.
        num_iter: the largest number of iterations.
        seed: draws the first centroids.
        search_factory: makes a search of (K, D) centroids.
        spherical: scale centroids to unit norm after each update (cosine k-means). The objective stays the
            squared L2 distance, which is 2 - 2·cos for unit vectors.
        start: how the first centroids are drawn, "random" or "k-means++" (``initialization.py``); or "hierarchical",
            whose clustering on two levels is the first iteration (``hierarchical_start.py``).
        growing: begin on a sample and go on by parts; see ``minibatches.py``.
        tolerance: stop when a pass over all vectors lowers the objective by no more than this share; 0 for never.
        time_limit: seconds, from which on no iteration begins that would end later; 0 for none. One is always run. What
            it ends with is the very clustering of more time after as many iterations.
        initial_centroids: (K, D), instead of drawn ones.
        resume_from: go on after this state, with the sums that it carries, which gives the very result of a run that
            was not stopped.
        on_iteration: called after every iteration with the state so far, and with those sums that it carries and that
            the iteration found; others were found by one of the last ``minibatches.NUM_PARTS``.

    Raises:
        ConfigError: K is larger than the number of vectors.
    """
    require_enough_points(num_clusters, source.num_vectors)
    hierarchical = start == HIERARCHICAL
    plan = steps(num_iter, source.num_vectors, num_clusters, growing=growing, hierarchical=hierarchical)
    remembering = source.remembering(seen_again(plan))  # for iterations only: other passes have other centroids
    known, given = Sums(), Sums()
    last_look = time.monotonic()

    def seconds_since() -> float:
        nonlocal last_look
        before, last_look = last_look, time.monotonic()
        return max(source.gather(last_look - before))  # the same on all processes

    @functools.cache
    def coarse() -> np.ndarray:
        return coarse_clusters(source, num_clusters, seed, search_factory, spherical=spherical)

    iteration_search = search_factory
    if plan != [(ALL,)] * num_iter:
        iteration_search = near_points(source, num_clusters, coarse, search_factory)
    if resume_from is not None:
        state, known = resume_from
        if not state.retained and all(share == 1 for share in state.shares):
            plan = [(ALL,)] * num_iter  # as the older version that began it, whose few iterations all saw all vectors
        logger.info("k-means resumes after iteration %d of %d.", len(state.objective), num_iter)
    else:
        if initial_centroids is None and start == KMEANS_PLUSPLUS:
            sample = start_share(plan, source.num_vectors, num_clusters)
            initial_centroids = kmeans_plusplus(source, num_clusters, seed, iteration_search, sample)
        elif initial_centroids is None and hierarchical:
            seen = plan[0] if plan else (ALL,)
            begun = hierarchical_start(
                source, num_clusters, seed, coarse(), iteration_search, seen, spherical=spherical
            )
            initial_centroids, given = begun.centroids, begun.sums
        elif initial_centroids is None:
            initial_centroids = random_start(source, num_clusters, seed)
        state = _first(initial_centroids, source.num_vectors, spherical)
        state = replace(state, seconds=(seconds_since(),)) if time_limit else state
    del resume_from, initial_centroids  # which would stay in memory
    for number, step in list(enumerate(plan, 1))[len(state.objective) :]:
        if state.converged or has_settled(state.objective, plan, tolerance):
            break
        if is_out_of_time(seconds := state.seconds, plan, time_limit):
            break
        if step in plan[number - 1 - state.num_unchanged : number - 1]:
            state = _repeated(state)
        else:
            state = _iterate(remembering, state, known, given, iteration_search, step, spherical)
            logger.info(
                "k-means iteration %d of %d, on %.3g %% of the features: objective %.6g, %d empty clusters repaired.",
                number,
                num_iter,
                100 * width(step),
                state.objective[-1],
                state.repaired[-1],
                extra=DETAIL,
            )
        still = {share for seen in plan[number - state.num_unchanged : number] for share in seen}
        coming = plan[number] if number < num_iter else (ALL,)
        state = replace(
            state,
            converged=width(tuple(still)) >= 1,
            retained=_retained(known, coming, may_repeat=state.num_unchanged > 0),
            seconds=(*seconds, seconds_since()) if time_limit else (),
        )
        if on_iteration is not None:
            on_iteration(state, {share: known[share] for share in step if share in state.retained})
    fillable = state.num_empty > 0 and bool(state.repaired) and state.repaired[-1] > 0
    if state.num_empty and plan and plan[-1] != (ALL,):
        state, fillable = _fill_last(source, state, search_factory)
    settled = not state.converged and has_settled(state.objective, plan, tolerance)
    timed_out = not state.converged and not settled and is_out_of_time(state.seconds, plan, time_limit)
    state = replace(state, settled=settled, timed_out=timed_out)
    _conclude(state, num_iter, fillable)
    return state


def _fill_last(source: VectorSource, state: KMeansResult, search_factory: SearchFactory) -> tuple[KMeansResult, bool]:
    """Fills clusters that are empty at the end, of vectors in all parts; and whether more could be filled."""
    centroids, counts = state.centroids.copy(), state.counts.copy()
    for _ in range(_LAST_FILLS):
        farthest = source.farthest(search_factory(centroids))
        filled = fill_empty(centroids, counts, farthest, source)
        repaired = (*state.repaired[:-1], state.repaired[-1] + filled)
        state = replace(state, centroids=centroids.copy(), counts=counts.copy(), repaired=repaired)
        if not filled or not state.num_empty:
            return state, False
    return state, True


def _first(centroids: np.ndarray, num_points: int, spherical: bool) -> KMeansResult:
    """The state before the first iteration."""
    first = unit_rows(centroids) if spherical else np.array(centroids, dtype=np.float32)
    return KMeansResult(first, (), (), (), np.zeros(len(first), dtype=np.int64), num_points, 0, False)


def _iterate(
    source: VectorSource,
    state: KMeansResult,
    known: Sums,
    given: Sums,
    search_factory: SearchFactory,
    step: MinibatchPlan,
    spherical: bool,
) -> KMeansResult:
    """The state after one more iteration; what is ``known`` is brought up to date, what is ``given`` not sought."""
    search = functools.cache(lambda: search_factory(state.centroids))  # not made where all is given
    cost, number, sought = 0.0, 0, given.keys().isdisjoint(step)
    for share in step:
        for before in [before for before in known if _overlap(before, share)]:
            del known[before]
        sums = given.pop(share, None) or source.accumulate(search(), share)
        cost, number = cost + sums.cost(state.centroids), number + sums.num_vectors
        known[share] = sums if share == ALL else sums.kept()
    counts = np.sum([sums.counts for sums in known.values()], axis=0)
    moved = means([known[share] for share in sorted(known)], counts, state.centroids, spherical)
    repaired = 0
    if not counts.all():
        farthest = source.farthest(search(), step[-1])
        repaired = fill_empty(moved, counts, farthest, source, known[step[-1]])
    return KMeansResult(
        moved,
        (*state.objective, cost / max(1, number)),
        (*state.shares, width(step)),
        (*state.repaired, repaired),
        counts,
        source.num_vectors,
        state.num_unchanged + 1 if sought and np.array_equal(moved, state.centroids) else 0,
        False,
    )


def _retained(known: Sums, coming: MinibatchPlan, *, may_repeat: bool) -> tuple[Fraction, ...]:
    """What the next iteration does not find again; all of it, if that may have nothing to do."""
    found_again = () if may_repeat else coming
    return tuple(sorted(share for share in known if not any(_overlap(share, new) for new in found_again)))


def _overlap(one: Fraction, other: Fraction) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _repeated(state: KMeansResult) -> KMeansResult:
    """The state after an iteration that sees what one before it saw, since which nothing has changed."""
    return replace(
        state,
        objective=(*state.objective, state.objective[-1]),
        shares=(*state.shares, state.shares[-1]),
        repaired=(*state.repaired, 0),
        num_unchanged=state.num_unchanged + 1,
    )


def _conclude(result: KMeansResult, num_iter: int, fillable: bool) -> None:
    if result.converged:
        logger.info("k-means converged: iteration %d changed no centroid.", len(result.objective))
    elif result.settled:
        logger.info(
            "k-means ends after iteration %d of %d: the last pass lowered the objective by no more than TOLERANCE.",
            len(result.objective),
            num_iter,
        )
    elif result.timed_out:
        logger.info(
            "k-means ends after iteration %d of %d: one more would have exceeded TIME_LIMIT.",
            len(result.objective),
            num_iter,
        )
    else:
        logger.info("k-means ends after all %d iterations; centroids were still moving.", num_iter)
    if result.num_empty:
        logger.warning(
            "%d of %d clusters stay empty: %s. Lower the number of clusters, or look for duplicate samples.",
            result.num_empty,
            len(result.counts),
            "they were still being filled, which more iterations go on with"
            if fillable
            else "there are fewer features that differ by more than rounding",
        )
