"""What the log says before a clustering begins."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.checkpoints import last_checkpoint
from vissl_clusterfit.clustering.codebook import IN_PROGRESS, Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.fit import drawn_samples
from vissl_clusterfit.clustering.kmeans import require_enough_points
from vissl_clusterfit.clustering.protocol import VectorSource
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.clustering.two_level import require_coarse_clusters_fit
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.planner.calibration import calibrate, product_bytes, this_machine
from vissl_clusterfit.planner.memory import footprint
from vissl_clusterfit.planner.plan import Plan, in_bytes, in_time, make_plan, warnings
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.search.backends import require_backend
from vissl_clusterfit.search.threads import give_back_memory

logger = logging.getLogger(__name__)

# Less work than this, products of a number of a vector and one of a centroid, is not measured: a fifth of it took 42 s
# on two cores with bfloat16 units. To measure takes a second, and some 6 MiB that are not given back.
_WORTH_MEASURING = 1e13
_SECONDS = 0.5


def announce_clustering(store: FeatureStore, settings: ClusterFitConfig, device: str) -> Plan:
    """Logs what :func:`~vissl_clusterfit.clustering.fit.fit_codebook` will take, on two levels the first one.

    All processes of the run call it together.

    Args:
        store: the features.
        settings: ``config.CLUSTERFIT``.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: more clusters than features; or as :func:`announce`.
    """
    folder, inputs = settings.paths.codebook, codebook_inputs(store.inputs, settings)
    place = distributed.on_primary(lambda: last_checkpoint(folder / IN_PROGRESS, inputs, store.content_hash))
    num_done = 0 if place is None else len(Codebook.open(place, inputs).manifest["objective"])
    raw = StoreSource(store, indices=drawn_samples(store, settings))
    require_enough_points(settings.num_clusters, raw.num_vectors)
    require_coarse_clusters_fit(settings.num_coarse_clusters, raw.num_vectors)
    first = settings
    if settings.num_coarse_clusters:
        first = replace(settings, num_clusters=settings.num_coarse_clusters, num_coarse_clusters=0)
    num_samples, processes = store.num_samples - len(store.unreadable), distributed.world_size()
    run = {"num_done": num_done, "processes": processes, "threads": torch.get_num_threads()}
    plan = announce(Workload.of_settings(first, num_samples, store.dim, store.dtype, device, **run), raw, folder)
    if settings.num_coarse_clusters and settings.refinement_iterations:
        _announce_refinement(plan, settings, folder)
    return plan


def _announce_refinement(plan: Plan, settings: ClusterFitConfig, folder: Path) -> None:
    """Says what memory the iterations over all clusters take, which may be more than that of either level."""
    given = replace(plan.work, num_clusters=settings.num_clusters, start="", growing=False, num_done=0, refines=True)
    work = replace(given, num_iter=settings.refinement_iterations)
    each = footprint(work, plan.product_bytes).total
    logger.info(
        "%d iterations over all %d clusters follow both levels, with %s of memory in each process.",
        work.num_iter,
        work.num_clusters,
        in_bytes(each),
    )
    together, there = each * work.processes_per_machine, this_machine(folder, work.device).memory
    if there is not None and together > there:
        logger.warning(
            "Memory: these iterations take %s on a machine, %s are available. Set "
            "config.CLUSTERFIT.REFINEMENT_ITERATIONS to 0, or config.DISTRIBUTED.NUM_PROC_PER_NODE to fewer.",
            in_bytes(together),
            in_bytes(there),
        )


def announce(work: Workload, source: VectorSource, folder: Path) -> Plan:
    """Logs what a clustering will take, and warns where it will not fit. All processes of the run call it together.

    Args:
        work: the clustering; on how many machines it is, is found out.
        source: the features as they are on disk, of which a chunk is read to measure with.
        folder: of the codebook.

    Raises:
        MissingDependencyError, ConfigError: the backend is not there, or the GPU.
        DataError: a feature that was read is NaN or infinite.
    """
    require_backend(work.backend, work.device)
    hosts = distributed.gather(socket.gethostname())
    work = replace(work, machines=len(set(hosts)))
    products = float(work.num_vectors) * work.num_clusters * work.dim * sum(work.shares)
    rates = None
    if products >= _WORTH_MEASURING or work.time_limit:
        with distributed.errors_shared():
            rates = calibrate(work, take=lambda count: source.take(np.arange(count)), seconds=_SECONDS)
        give_back_memory()
    plan = make_plan(work, product_bytes(work), rates)
    logger.info(
        "k-means of %d features of dimension %d into %d clusters takes %s of memory in each of %d processes, %.3g "
        "passes over the features, and %s%s.",
        work.num_vectors,
        work.dim,
        work.num_clusters,
        in_bytes(plan.memory.total),
        work.processes,
        sum(plan.reads.values()) - plan.reads["labels"],
        f"about {in_time(plan.clustering_seconds)}" if rates else "minutes",
        f", at most: TOLERANCE may end it after {work.fewest_iterations} of {work.num_iter} iterations"
        if work.fewest_iterations < work.num_iter
        else "",
    )
    if (number := plan.iterations_in_time) is not None:
        logger.info(
            "TIME_LIMIT, %s, leaves time for %s of %d iterations, as measured here: none begins that would end later.",
            in_time(work.time_limit),
            f"all {number}" if number == len(work.shares) else f"about {number}",
            len(work.shares),
        )
    for text in warnings(plan, this_machine(folder, work.device), features_are_there=True):
        logger.warning("%s", text)
    return plan
