"""What a clustering will take, before it begins: memory, disk, passes over the data, network, time.

Nothing here is measured and nothing is read: bytes and passes follow from the workload, times from rates that
``calibration.py`` measured. N vectors, K clusters, D dimensions, P processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vissl_clusterfit.clustering.hierarchical_start import HIERARCHICAL_PASSES
from vissl_clusterfit.clustering.initialization import NUM_ROUNDS
from vissl_clusterfit.clustering.kmeans import HIERARCHICAL, KMEANS_PLUSPLUS, RANDOM
from vissl_clusterfit.clustering.minibatches import NUM_PARTS
from vissl_clusterfit.planner.memory import Footprint, card_footprint, footprint, has_grid, has_lists
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.search.backends import TORCH
from vissl_clusterfit.search.near_points import num_points


@dataclass(frozen=True)
class Rates:
    """Seconds of the steps of a clustering in one process, and what they were measured with.

    Attributes:
        label: of one vector and one centroid: which is the nearest.
        nearest: the same for the two nearest, with distances.
        add: of one vector, to the sums.
        read: of one vector, from disk; the next chunk is read while one is worked on.
        prepare: of one vector: normalisation and projection.
        covariance: of one vector, into the covariance of a projection.
        update: of one centroid: the search of new centroids, sums and means.
        keep: of one centroid, written to disk.
        shared_by: processes that will share the processors with which these were measured.
        network: bytes a second between processes: assumed, not measured.
    """

    label: float
    nearest: float
    add: float
    read: float
    prepare: float
    covariance: float
    update: float
    keep: float
    shared_by: int = 1
    network: float = 1.25e9


@dataclass(frozen=True)
class Machine:
    """What there is, in bytes; None where it is not known."""

    memory: int | None = None
    disk: int | None = None
    card: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a clustering takes.

    Attributes:
        work: the clustering.
        memory: of one process, above what it has after its imports.
        card: bytes on the GPU of one process; 0 without one.
        disk: bytes of each artefact.
        reads: how often the features are read, in passes over all that are clustered, and by what. Repairs of empty
            clusters come on top, one pass of the iteration's share each time.
        assignments: how often all vectors are held against all centroids, by what.
        network: bytes that a process sends in each iteration; 0 for one process.
        seconds: of each stage, at most; empty without rates.
        product_bytes: of a number in the search's matrix product.
    """

    work: Workload
    memory: Footprint
    card: int
    disk: Mapping[str, int]
    reads: Mapping[str, float]
    assignments: Mapping[str, float]
    network: int
    seconds: Mapping[str, float]
    product_bytes: int

    @property
    def clustering_seconds(self) -> float:
        """All but the labels."""
        return sum(self.seconds.values()) - self.seconds.get("labels", 0.0)

    @property
    def iterations_in_time(self) -> int | None:
        """How many iterations TIME_LIMIT leaves time for, one at least; None without a limit, or times."""
        if not (self.work.time_limit and self.seconds):
            return None
        of_iterations = self.seconds["iterations"] + self.seconds.get("network", 0.0)
        shares, passed = self.work.shares, self.seconds.get("first centroids", 0.0)
        passed += self.seconds.get("largest number", 0.0)
        for number, share in enumerate(shares):
            passed += of_iterations * share / sum(shares)
            if number and passed > self.work.time_limit:
                return number
        return len(shares)

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        totals = {
            "memory_per_process": self.memory.total,
            "memory_per_machine": self.memory.total * self.work.processes_per_machine,
            "disk_total": sum(self.disk.values()),
            "reads_total": sum(self.reads.values()),
            "assignments_total": sum(self.assignments.values()),
            "seconds_total": sum(self.seconds.values()) if self.seconds else None,
            "iterations_in_time": self.iterations_in_time,
        }
        return asdict(self) | totals


def make_plan(work: Workload, product_bytes: int, rates: Rates | None = None) -> Plan:
    """What a clustering takes; times only if rates are given.

    Args:
        work: the clustering.
        product_bytes: of a number in the search's matrix product: 2 for bfloat16, 4 for float32.
        rates: of one process.
    """
    reads, assignments = _passes(work)
    return Plan(
        work,
        footprint(work, product_bytes),
        card_footprint(work, product_bytes) if work.backend == TORCH else 0,
        _disk(work),
        reads,
        assignments,
        _network(work),
        _seconds(work, rates, reads, assignments) if rates else {},
        product_bytes,
    )


def _disk(work: Workload) -> dict[str, int]:
    # 8 bytes a sample say which it is.
    features = work.num_samples * (work.input_dim * work.feature_bytes + 8)
    further = sum(sum(_disk_of_codebook(work, number).values()) for number in work.also)
    return {
        "features": features,
        **_disk_of_codebook(work, work.num_clusters),
        **({"ALSO_NUM_CLUSTERS": further} if further else {}),
    }


def _disk_of_codebook(work: Workload, num_clusters: int) -> dict[str, int]:
    projection = 4 * (work.input_dim + work.input_dim * work.dim) if work.num_components else 0
    codebook = num_clusters * (4 * work.dim + 8) + projection
    nearest = min(work.top_clusters, num_clusters) if work.top_clusters > 1 else 0
    return {
        "codebook": codebook,
        # Until the codebook is written: the last iterations, with the sums that they go on from.
        "iterations kept": (NUM_PARTS if work.num_sums else 1) * codebook
        + work.num_sums * num_clusters * (4 * work.dim + 8),
        # int64 labels, float32 distances and margins, 8 bytes a sample that say which it is; cluster sizes; int64
        # nearest clusters and float32 distances to them.
        "labels": work.num_samples * (8 + 4 + 4 + 8 + 12 * nearest) + 8 * num_clusters,
    }


def _passes(work: Workload) -> tuple[dict[str, float], dict[str, float]]:
    reads, assignments = {}, {}
    fresh_start = work.num_done == 0
    if work.num_components and fresh_start:
        reads["projection"] = 1.0
    if not work.has_unit_rows:
        reads["largest number"] = 1.0
    if work.start == KMEANS_PLUSPLUS and fresh_start and work.shares:
        # Each round but the last holds the sample against the centroids that it drew.
        rounds = max(0, min(NUM_ROUNDS, work.num_clusters) - 1)
        reads["first centroids"] = rounds * work.start_share
        assignments["first centroids"] = rounds * work.start_share / NUM_ROUNDS
    reads["iterations"] = assignments["iterations"] = sum(work.shares)
    if work.start == HIERARCHICAL and fresh_start and work.shares:
        # Coarse clusters of a sample, then of all, whose vectors are each read once more and worked on in memory.
        reads["first centroids"] = 3.0 * work.shares[0]
        assignments["first centroids"] = work.shares[0] * HIERARCHICAL_PASSES / math.sqrt(work.num_clusters)
        reads["iterations"] = assignments["iterations"] = sum(work.shares[1:])  # of which it is the first
    reads["labels"] = assignments["labels"] = work.num_samples / work.num_vectors
    return reads, assignments


def _network(work: Workload) -> int:
    """A ring: every process sends nearly all sums twice."""
    sums = work.num_clusters * (8 * work.num_bins * work.dim + 8)
    return int(2 * (work.processes - 1) / work.processes * sums)


def _seconds(
    work: Workload, rates: Rates, reads: Mapping[str, float], assignments: Mapping[str, float]
) -> dict[str, float]:
    def passes(
        stage: str, num_vectors: int, sharing: int, search: float = 0.0, other: float = 0.0, against: float = 0.0
    ) -> float:
        """Passes over so many vectors, each of which is read while the one before it is worked on."""
        compared = against or work.num_clusters
        working = reads[stage] * (rates.prepare + other) + assignments.get(stage, 0.0) * compared * search
        return num_vectors * sharing * max(reads[stage] * rates.read, working)

    own, together = work.own_vectors, rates.shared_by
    seconds = {}
    if "projection" in reads:  # on one process, while the others wait
        seconds["projection"] = passes("projection", work.num_vectors, 1, other=rates.covariance)
    if "largest number" in reads:
        seconds["largest number"] = passes("largest number", own, together)
    if "first centroids" in reads:
        seconds["first centroids"] = passes("first centroids", own, together, search=rates.nearest)
    elif work.start == RANDOM and not work.num_done:
        seconds["first centroids"] = together * work.num_clusters * (rates.read + rates.prepare)
    updates = len(work.shares) * work.num_clusters * (together * rates.update + rates.keep)
    against = _compared(work)
    seconds["iterations"] = updates + passes(
        "iterations", own, together, search=rates.label, other=rates.add, against=against
    )
    if work.processes > 1:
        seconds["network"] = len(work.shares) * _network(work) / rates.network
    seconds["labels"] = passes("labels", own, together, search=rates.nearest)
    return seconds


def _compared(work: Workload) -> float:
    """How many centroids an iteration holds a vector against, in units of the products of labels.

    On a grid (``search/near_points.py``) products take a quarter of the time, with lists of most often 3√K points and
    K/32 centroids about as long, as they are small (docs/performance.md).
    """
    if not has_grid(work, work.num_clusters):
        return work.num_clusters
    of_all = work.num_clusters / 4
    return (
        min(of_all, num_points(work.num_clusters) + work.num_clusters / 32)
        if has_lists(work, work.num_clusters)
        else of_all
    )


def warnings(plan: Plan, machine: Machine, *, features_are_there: bool = False) -> Iterator[str]:
    """What does not fit on a machine, each with the setting to change.

    Args:
        plan: of the clustering.
        machine: what is free on it.
        features_are_there: whether the features are on disk already.
    """
    work, each = plan.work, plan.memory.total
    together = each * work.processes_per_machine
    if machine.memory is not None and together > machine.memory:
        text = f"Memory: {work.processes_per_machine} process(es) on one machine take {in_bytes(together)}, "
        text += f"{in_bytes(machine.memory)} are available. "
        if (fitting := int(machine.memory // each)) > 0:
            yield text + f"Set config.DISTRIBUTED.NUM_PROC_PER_NODE to at most {fitting}."
        else:
            yield f"{text}{_fewer_clusters(plan, machine.memory)} or set {_FEWER_DIMENSIONS}."
    disk = sum(size for name, size in plan.disk.items() if not (name == "features" and features_are_there))
    if machine.disk is not None and disk > machine.disk:
        smaller = ", config.CLUSTERFIT.FEATURES.DTYPE to float16" if work.dtype == "float32" else ""
        smaller = "" if features_are_there else smaller
        yield (
            f"Disk: the artefacts take {in_bytes(disk)}, {in_bytes(machine.disk)} are free. Set "
            f"config.CLUSTERFIT.FEATURES.PATH and OUTPUT_DIR to larger file systems{smaller}, or make room."
        )
    if machine.card is not None and plan.card > machine.card:
        yield (
            f"GPU memory: a process takes {in_bytes(plan.card)}, {in_bytes(machine.card)} are free. Lower "
            f"config.CLUSTERFIT.NUM_CLUSTERS or set {_FEWER_DIMENSIONS}."
        )


_FEWER_DIMENSIONS = "config.CLUSTERFIT.FEATURES.DIMENSIONALITY_REDUCTION"


def _fewer_clusters(plan: Plan, memory: int) -> str:
    low, high = 0, plan.work.num_clusters
    while high - low > 1:
        middle = (low + high) // 2
        fits = footprint(replace(plan.work, num_clusters=middle), plan.product_bytes).total <= memory
        low, high = (middle, high) if fits else (low, middle)
    if not low:
        return "Take machines with more memory,"
    one = "" if plan.work.processes_per_machine == 1 else "Set config.DISTRIBUTED.NUM_PROC_PER_NODE to 1, and lower "
    return f"{one or 'Lower '}config.CLUSTERFIT.NUM_CLUSTERS to at most {low},"


def in_bytes(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}" if unit != "bytes" else f"{number:.0f} bytes"
        number /= 1024
    return f"{number:.3g} TiB" if number < 1000 else f"{number:.0f} TiB"


def in_time(seconds: float) -> str:
    """A duration for people."""
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
