"""How much of the data each iteration sees: a sample that grows, then one eighth after the other.

The first iterations move centroids far, and a sample says where to nearly as well as all vectors. After them, an
iteration assigns an eighth of the vectors again, and each centroid becomes the mean of its vectors as they were last
assigned: of all of them, none more than eight iterations ago. That is the incremental variant of expectation
maximisation (Neal and Hinton, 1998, section 4), for k-means: it costs an eighth of an iteration over all vectors and
brings nearly as much. Where there are few vectors for each cluster, it sees a quarter or a half. It is a heuristic;
labels are always those of the last centroids, for all vectors.

Few iterations are the first ones of a dozen: so fewer never take longer than more. Fewer than nine or so have not seen
all vectors.

Legend: N vectors, K clusters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from vissl_clusterfit.clustering.protocol import ALL, Fraction

#: The vectors are seen in so many parts, at most.
NUM_PARTS = 8
#: The shares that one iteration sees, one after the other, with the same centroids.
MinibatchPlan = tuple[Fraction, ...]


def equal_parts(number: int) -> MinibatchPlan:
    """So many shares of the same width, a power of two of them, so that their widths are exact."""
    return tuple((part / number, (part + 1) / number) for part in range(number))


PARTS = equal_parts(NUM_PARTS)
# The sample that grows, smallest first, and how many vectors per cluster each needs; with fewer, the end is worse.
_SAMPLES: tuple[tuple[MinibatchPlan, int], ...] = ((((0.0, 1 / 16),), 96), (PARTS[:1], 96), (PARTS[:2], 24))
# First centroids are drawn from so many vectors, and so many for each; where half of what the first iteration sees has
# fewer than the least number for each, from all that it sees.
_VECTORS_AT_START, _VECTORS_PER_START, _FEWEST_PER_START = 12_288, 4, 3
# Fewer iterations are the first of so many.
_FEWEST_ITERATIONS = 12
# With fewer vectors, each iteration sees all of them.
_FEWEST_VECTORS = 2048
# Of the vectors that a clustering on two levels sees first, where there are more, for each cluster.
_VECTORS_PER_FINE = 48
# With fewer vectors for each cluster, parts are quarters: the number of passes is what lowers the objective then.
_FEW_VECTORS = 96
# From first centroids that were drawn they are halves, where there are so many for each; with fewer it brings little.
_FEWEST_FOR_HALVES = 48
# Of so many parts, at most, the sums of each are remembered: with more, these are a sixth of the vectors.
_MOST_REMEMBERED = 4
# One in so many iterations sees the sample that grows.
_EARLY = 6


def steps(
    num_iter: int, num_vectors: int, num_clusters: int, *, growing: bool, hierarchical: bool = False
) -> list[MinibatchPlan]:
    """What each iteration sees.

    Args:
        num_iter: number of iterations.
        num_vectors: N.
        num_clusters: K.
        growing: whether to begin with a sample and go on by parts; else each iteration sees all vectors.
        hierarchical: whether the first iteration is that of ``hierarchical_start.py``, over all parts, or as many as
            are enough.
    """
    if not growing or num_vectors < _FEWEST_VECTORS:
        return [(ALL,)] * num_iter
    parts = _parts(num_vectors, num_clusters, hierarchical=hierarchical)
    if hierarchical:
        enough = (
            number
            for number in range(1, len(parts))
            if num_vectors * number / len(parts) >= _VECTORS_PER_FINE * num_clusters
        )
        first = next(enough, len(parts))
        return [parts[:first], *_in_turn(parts, first, num_iter - 1)][:num_iter]
    if num_iter < _FEWEST_ITERATIONS:
        return steps(_FEWEST_ITERATIONS, num_vectors, num_clusters, growing=True)[:num_iter]
    num_early = num_iter // _EARLY
    samples = [sample for sample, least in _SAMPLES if num_vectors * width(sample) >= least * num_clusters][-num_early:]
    early = [samples[number * len(samples) // num_early] for number in range(num_early)] if samples else [parts]
    # Of those that have not been seen, if there are any, the first one.
    return early + _in_turn(parts, len(early[-1]), num_iter - len(early))


def _parts(num_vectors: int, num_clusters: int, *, hierarchical: bool) -> MinibatchPlan:
    if num_vectors >= _FEW_VECTORS * num_clusters:
        return PARTS
    return equal_parts(2 if num_vectors >= _FEWEST_FOR_HALVES * num_clusters and not hierarchical else 4)


def _in_turn(parts: MinibatchPlan, first: int, num_iter: int) -> list[MinibatchPlan]:
    """So many iterations, each of which sees one part, from the first one on."""
    return [(parts[(first + number) % len(parts)],) for number in range(num_iter)]


def start_share(plan: list[MinibatchPlan], num_vectors: int, num_clusters: int) -> Fraction:
    """Where the first centroids are drawn from: at most half of what the first iteration sees, where that is enough."""
    seen = width(plan[0]) if plan else 1.0
    if plan[:1] == [(ALL,)] or num_vectors * seen / 2 < _FEWEST_PER_START * num_clusters:
        return 0.0, seen
    return 0.0, min(seen / 2, max(_VECTORS_AT_START, _VECTORS_PER_START * num_clusters) / num_vectors)


def seen_again(plan: Sequence[MinibatchPlan]) -> MinibatchPlan:
    """The parts that more than one iteration sees, where they are so few that the sums of each take little memory."""
    times = Counter(share for step in plan for share in step if share != ALL)
    few = all(width((share,)) * _MOST_REMEMBERED >= 1 for share in times)
    return tuple(share for share, number in times.items() if few and number > 1)


def width(step: MinibatchPlan) -> float:
    """The share of all vectors that it sees, up to 1."""
    return math.fsum(high - low for low, high in step)


def is_out_of_time(seconds: Sequence[float], plan: Sequence[MinibatchPlan], limit: float) -> bool:
    """Whether one more iteration would take more than is left, if it takes what the last one did for what it saw.

    Args:
        seconds: of the start, and of each iteration that was run; empty before any was.
        plan: what iterations see, at least as many.
        limit: seconds; 0 for none.
    """
    done = len(seconds) - 1
    if not limit or done < 1 or done >= len(plan):
        return False
    return math.fsum(seconds) + seconds[-1] * width(plan[done]) / width(plan[done - 1]) > limit


def has_settled(objective: Sequence[float], plan: Sequence[MinibatchPlan], tolerance: float) -> bool:
    """Whether the last pass over all vectors lowered the objective by no more than a share of it.

    A pass is one iteration that sees all vectors, or as many as see all parts: it is held against the pass before, so
    two are needed after the sample that grows.

    Args:
        objective: of the iterations that were run.
        plan: what they saw, at least as many.
        tolerance: the share; 0 for never.
    """
    seen = list(plan[: len(objective)])
    if not tolerance or not seen:
        return False
    length = math.ceil(1 / width(seen[-1]))
    if len(seen) < 2 * length or len({width(step) for step in seen[-2 * length :]}) > 1:
        return False
    before, last = math.fsum(objective[-2 * length : -length]), math.fsum(objective[-length:])
    return before - last <= tolerance * before
