"""How much memory a clustering takes in one process, and of what it is made.

Formulas of K clusters, D dimensions, chunks of n vectors and b sums per number (``reproducible_sums.py``), for each
phase of a clustering; the largest phase counts. They leave out what a process with these libraries takes before it
does anything, and the pages of files that the system keeps as long as no other process needs the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vissl_clusterfit.clustering.card_rows import card_chunk_rows, readers_for_card, working_bytes
from vissl_clusterfit.clustering.initialization import NUM_ROUNDS
from vissl_clusterfit.clustering.kmeans import HIERARCHICAL, KMEANS_PLUSPLUS, RANDOM
from vissl_clusterfit.clustering.minibatches import seen_again
from vissl_clusterfit.clustering.sources import joined_rows
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.search.backends import FAISS
from vissl_clusterfit.search.grid import MOST_DIMS
from vissl_clusterfit.search.near_points import (
    FEWEST_CENTROIDS,
    FEWEST_CENTROIDS_WITH_LISTS,
    best_rows,
    num_points,
)
from vissl_clusterfit.search.neighbourhoods import BEST_ROWS, CENTROIDS_PER_REFERENCE, NEAR_ONE_OF
from vissl_clusterfit.search.neighbourhoods import FEWEST_CENTROIDS as FEWEST_WITH_REFERENCES
from vissl_clusterfit.search.tile import SCORE_COPIES, block_rows, tile_size

_MIB = 1 << 20
# Pairs of a row and a candidate, and blocks of sums; smaller arrays that were freed, which the allocator keeps.
_PER_THREAD, _PER_PROCESS = 8 * _MIB, 48 * _MIB
# faiss's own blocks of distances, and its answers.
_FAISS_BLOCKS = 32 * _MIB


@dataclass(frozen=True)
class Footprint:
    """Bytes in the phase that takes most.

    Attributes:
        phase: its name.
        parts: what they are taken for.
    """

    phase: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values())


def footprint(work: Workload, product_bytes: int = 4) -> Footprint:
    """The memory of one process above what it has after its imports; on a GPU, without the GPU's own.

    Args:
        work: the clustering.
        product_bytes: of a number in the search's matrix product: 2 for bfloat16, 4 for float32.
    """
    phases = [Footprint("iterations", _iterating(work, product_bytes))]
    phases.append(Footprint("iterations, before the first chunk", _building(work, product_bytes)))
    if work.num_samples > work.num_vectors and _is_drawn_from_a_list(work.num_vectors, work.num_samples):
        phases.append(Footprint("sample of DATA_LIMIT", {"numbers to draw from": 8 * work.num_samples}))
    if work.num_done == 0:
        phases.append(Footprint("first centroids", _starting(work, product_bytes)))
        if work.num_components:
            phases.append(Footprint("principal components", _projecting(work)))
    phases = [Footprint(phase.phase, phase.parts | _always(work)) for phase in phases]
    return max(phases, key=lambda phase: phase.total)


def card_footprint(work: Workload, product_bytes: int = 2) -> int:
    """Bytes on the GPU of one process; 0 without one. Features stay there besides where they fit (``card_rows.py``)."""
    if work.device == "cpu":
        return 0
    return working_bytes(work.num_clusters, work.dim, work.num_bins, work.threads, product_bytes)


def _always(work: Workload) -> dict[str, int]:
    # The sample that DATA_LIMIT draws: as it was drawn, and of each source.
    drawn = 3 * 8 * work.num_vectors if work.num_vectors < work.num_samples else 0
    return {"list of drawn samples": drawn} if drawn else {}


def _iterating(work: Workload, product_bytes: int) -> dict[str, int]:
    return {
        # Before and after an update, of which the search uses the first.
        "centroids": (2 + _is_given(work)) * _float32_centroids(work),
        "search": _search(work, work.num_clusters, product_bytes),
        "sums": work.num_clusters * ((8 * work.num_bins + 4 * work.num_sums) * work.dim + 8),
        "last assignment": _remembered(work),
        "chunks": _chunks(work, work.num_clusters),
        "blocks": _blocks(work, work.num_clusters, product_bytes),
        # Where many centroids are nearly as near, bfloat16 cannot tell them apart: a search in float32 is made as well.
        "conversion": _conversion(work, work.num_clusters) if work.device == "cpu" and product_bytes < 4 else 0,
    }


def _remembered(work: Workload) -> int:
    """Sums of parts, and labels, so that only vectors that change their cluster are added up again."""
    parts = len(seen_again(work.steps)) if work.device == "cpu" else 0
    return parts * work.num_clusters * (8 * work.num_bins * work.dim + 8) + 4 * work.num_vectors * (parts > 0)


def _building(work: Workload, product_bytes: int) -> dict[str, int]:
    return {
        "centroids": (1 + _is_given(work)) * _float32_centroids(work),
        "search": _search(work, work.num_clusters, product_bytes),
        "conversion": _conversion(work, work.num_clusters) if work.device == "cpu" else 0,
    }


def _starting(work: Workload, product_bytes: int) -> dict[str, int]:
    centroids = 2 * _float32_centroids(work)
    if work.start == HIERARCHICAL:
        seen = int(work.num_vectors * sum(work.shares[:1]))
        # Of each thread a coarse cluster that is twice as large as the mean: as read, prepared, and a part in float64.
        rows = int(2 * seen / math.sqrt(work.num_clusters)) + 1
        raw = 4 * work.input_dim * (1 + work.normalize) + 4 * work.dim * (1 + bool(work.num_components) + work.cosine)
        sums = max(1, work.num_sums) * work.num_clusters * (4 * work.dim + 8)
        return {
            "centroids": centroids,
            "sums": sums,
            "which coarse cluster": 40 * seen,
            "coarse clusters": work.threads * rows * (raw + 12 * work.dim) + _PER_PROCESS,
        }
    if work.start != KMEANS_PLUSPLUS:
        listed = work.start == RANDOM and _is_drawn_from_a_list(work.num_clusters, work.num_vectors)
        drawn = 8 * work.num_vectors if listed else 0
        raw = 4 * work.num_clusters * work.input_dim * (work.normalize + bool(work.num_components))
        return {"centroids": centroids, "features as read": raw, "numbers to draw from": drawn}
    fresh = -(-work.num_clusters // NUM_ROUNDS)
    sample = int(work.own_vectors * work.start_share)
    search = _conversion(work, fresh) if work.device == "cpu" else 0
    return {
        "centroids": centroids,
        "search": _search(work, fresh, product_bytes),
        # Those that are drawn have a time and a position, in each copy and each process.
        "distances of the sample": 4 * sample + 64 * min(sample, fresh) * work.processes,
        "chunks and blocks": max(search, _chunks(work) + _blocks(work, fresh, product_bytes)),
    }


def _projecting(work: Workload) -> dict[str, int]:
    rows, square = _rows(work), 8 * work.input_dim**2
    chunks = rows * work.input_dim * (work.feature_bytes + 4 + 4 + 4 * work.normalize + 16)
    # While it is added up: the sum and one product; then the decomposition, which needs copies.
    return {"covariance": 5 * square, "chunks": max(0, chunks - 3 * square)}


def _is_drawn_from_a_list(count: int, of: int) -> bool:
    """NumPy draws a large share of some numbers from a list of all."""
    return 50 * count > of


def _is_given(work: Workload) -> bool:
    return work.start not in (RANDOM, KMEANS_PLUSPLUS, HIERARCHICAL)


def _float32_centroids(work: Workload) -> int:
    return 4 * work.num_clusters * work.dim


def _rows(work: Workload, num_clusters: int = 0) -> int:
    """The vectors that a thread has at a time, where they are held against so many centroids."""
    asked_for = BEST_ROWS if _leaves_out(work, num_clusters) else 0
    if has_lists(work, num_clusters):
        asked_for = max(asked_for, best_rows(num_points(num_clusters)))
    at_most = work.own_vectors * (work.widest_pass if has_grid(work, num_clusters) else 1)
    return min(joined_rows(work.input_dim, asked_for), int(at_most))


def _leaves_out(work: Workload, num_clusters: int) -> bool:
    return work.backend != FAISS and work.device == "cpu" and num_clusters >= FEWEST_WITH_REFERENCES


def has_lists(work: Workload, num_clusters: int) -> bool:
    """Whether iterations search so many centroids by lists (``search/near_points.py``), if such are long enough."""
    return num_clusters >= FEWEST_CENTROIDS_WITH_LISTS and has_grid(work, num_clusters)


def has_grid(work: Workload, num_clusters: int) -> bool:
    """Whether iterations search so many centroids on a grid (``search/grid.py``)."""
    on_processor = work.backend != FAISS and work.device == "cpu" and work.dim <= MOST_DIMS
    fitting = num_clusters >= FEWEST_CENTROIDS
    return on_processor and fitting and (work.refines or any(share < 1 for share in work.shares))


def _chunks(work: Workload, num_clusters: int = 0) -> int:
    """Each thread has one; with one thread a second one is read and prepared meanwhile."""
    raw = work.feature_bytes + 4 * (1 + work.normalize + bool(work.num_components))
    prepared = 4 * (1 + bool(work.num_components) + work.cosine)
    if work.backend != FAISS and work.device != "cpu":  # in pinned memory, but for the piece that is being read
        rows = min(card_chunk_rows(work.input_dim), work.own_vectors)
        piece = _rows(work) * (raw * work.input_dim + prepared * work.dim)
        return readers_for_card(work.threads) * (4 * rows * work.dim + piece)
    return max(2, work.threads) * _rows(work, num_clusters) * (raw * work.input_dim + prepared * work.dim)


def _search(work: Workload, num_clusters: int, product_bytes: int) -> int:
    """The centroids once more, as the search needs them; on a GPU they are there."""
    if work.device != "cpu":
        return 0
    per_number = 4 if work.backend == FAISS or product_bytes == 4 else product_bytes + 4
    found = num_clusters * (work.dim + 8) * per_number
    if _leaves_out(work, num_clusters):
        points = -(-num_clusters // CENTROIDS_PER_REFERENCE)
        found += points * (work.dim + 8) * product_bytes + 4 * points * (num_clusters // NEAR_ONE_OF)
    if has_lists(work, num_clusters):
        found += num_points(num_clusters) * num_clusters // 2  # the longest lists
    return found


def _conversion(work: Workload, num_clusters: int) -> int:
    """While a search is made, the centroids of a tile are in memory in float32, less their shift and as rounded."""
    return 0 if work.backend == FAISS else 8 * tile_size(num_clusters) * work.dim


def _blocks(work: Workload, num_clusters: int, product_bytes: int) -> int:
    if work.device != "cpu":
        return work.threads * _PER_THREAD + _PER_PROCESS
    if work.backend == FAISS:
        return _FAISS_BLOCKS + work.threads * _PER_THREAD + _PER_PROCESS
    rows = min(block_rows(num_clusters, "cpu"), _rows(work))
    scores = int(SCORE_COPIES * rows * tile_size(num_clusters) * product_bytes)
    operand = max(rows, _rows(work, num_clusters)) * work.dim * (4 + 4 + product_bytes)
    return work.threads * (scores + operand + _PER_THREAD) + _PER_PROCESS
