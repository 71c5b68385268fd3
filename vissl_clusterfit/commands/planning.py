"""What ``vissl-clusterfit plan`` does."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vissl_clusterfit.commands.planned_run import Run, print_part, print_stages, run_of, stage_warnings, stages_of
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.planner.calibration import calibrate, product_bytes, this_machine
from vissl_clusterfit.planner.plan import Plan, Rates, in_bytes, in_time, make_plan, warnings
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.search.backends import require_backend
from vissl_clusterfit.storage.artifacts import has_manifest
from vissl_clusterfit.storage.paths import artifact_path


def run(options: argparse.Namespace) -> int:
    """Prints the plan of the options.

    Raises:
        ClusterFitError: they do not say enough, or cannot be.
    """
    if not (math.isfinite(options.network) and options.network > 0):
        raise ConfigError(problem("--network", found=options.network, allowed="more than 0, in Gbit/s"))
    run = run_of(options.overrides)
    settings = run.settings
    output = artifact_path(options.output or (settings.output_dir if options.overrides else "."), "--output")
    features = artifact_path(options.features, "--features") if options.features else None
    if (
        features is None
        and options.overrides
        and has_manifest(settings.paths.features(settings.features.data_partition))
    ):
        features = settings.paths.features(settings.features.data_partition)
    store = FeatureStore.open(features) if features else None
    work = _workload(options, run, store)
    require_backend(work.backend, work.device)
    given = None not in (options.num_samples, options.dim)  # then nobody said that the data are there
    measured = run.config is not None and not given and not options.no_calibration
    stages = {}
    with Progress("Measuring this machine", 3 if measured else 1, "stages") as progress:
        rates = None if options.no_calibration else _rates(work, store, output, options.network * 1e9 / 8)
        progress.add(1, "clustering is measured")
        plan = make_plan(work, product_bytes(work), rates)
        machine = this_machine(output, work.device)
        if measured:
            stages = stages_of(run, work.num_samples, progress, features_are_there=store is not None)
    found = [*warnings(plan, machine, features_are_there=store is not None), *stage_warnings(stages, machine, work)]
    if options.json:
        own = {name: stage.as_json() for name, stage in stages.items()}
        print(json.dumps(plan.as_json() | {"rates": rates and asdict(rates), "warnings": found} | own, indent=2))
    else:
        _print_table(plan, rates, options.network)
        print_stages(stages, plan)
        for text in found:
            print(f"warning: {text}")
    return 0


def _sizes(run: Run, num_samples: int | None, dim: int | None) -> tuple[int, int]:
    """N and D of the features that the run will take, where they are not given."""
    from vissl_clusterfit.plugin.planned import width

    images, encode = run.extraction
    return len(images) if num_samples is None else num_samples, width(images, encode) if dim is None else dim


def _workload(options: argparse.Namespace, run: Run, store: FeatureStore | None) -> Workload:
    settings, processes, machines, device = run.settings, run.processes, run.machines, run.device
    num_samples, dim, dtype = options.num_samples, options.dim, options.dtype or settings.features.dtype
    if store is not None:
        num_samples = store.num_samples - len(store.unreadable) if num_samples is None else num_samples
        dim, dtype = store.dim, store.dtype
    elif run.config is not None and None in (num_samples, dim):
        num_samples, dim = _sizes(run, num_samples, dim)
    missing = [name for name, value in (("--num-samples", num_samples), ("--dim", dim)) if value is None]
    if missing:
        allowed = "a number, --features FOLDER for features that are there, or config=NAME for those of a run"
        raise ConfigError("\n".join(problem(name, found="nothing", allowed=allowed) for name in missing))
    given: dict[str, Any] = {
        "num_clusters": options.num_clusters,
        "num_iter": options.num_iter,
        "num_components": options.num_components,
        "data_limit": options.data_limit,
        "backend": options.backend,
        "processes": options.processes,
        "machines": options.machines,
    }
    given = {name: value for name, value in given.items() if value is not None}
    whole = replace(settings, num_clusters=1)  # until all numbers are there to be checked
    device = "cpu" if (options.device or device) == "cpu" else "cuda"
    base = Workload.of_settings(
        replace(whole, data_limit=-1, features=replace(settings.features, dimensionality_reduction=0)),
        num_samples,
        dim,
        dtype,
        device,
        threads=torch.get_num_threads(),
    )
    from_settings = {
        "num_clusters": settings.num_clusters,
        "num_components": settings.features.dimensionality_reduction,
        "data_limit": settings.data_limit,
        "processes": processes,
        "machines": machines,
    }
    return replace(base, **(from_settings | given))


def _rates(work: Workload, store: FeatureStore | None, output: Path, network: float) -> Rates:
    # On processors, the processes of a machine share what one has here; each has a GPU of its own.
    shared_by = work.processes_per_machine if work.device == "cpu" else 1

    take = None if store is None else lambda count: store.read(0, min(count, store.num_samples))
    return calibrate(work, take=take, folder=output, seconds=2.0, shared_by=shared_by, network=network)


def _print_table(plan: Plan, rates: Rates | None, network: float) -> None:
    work = plan.work
    print(
        f"{work.num_vectors:,} of {work.num_samples:,} features of dimension {work.input_dim:,} into "
        f"{work.num_clusters:,} clusters, {work.num_iter} iterations\n"
        f"{work.processes} process(es) on {work.machines} machine(s), {work.device}, {work.backend}"
    )
    print_part("memory per process", plan.memory.parts, in_bytes, plan.memory.total)
    print(f"  in the phase: {plan.memory.phase}; above what a process has after its imports")
    if plan.card:
        print(f"  on its GPU: {in_bytes(plan.card)}")
    print_part("disk", plan.disk, in_bytes, sum(plan.disk.values()))
    print_part("reads, in passes over the features", plan.reads, "{:.2f}".format)
    print_part("assignments, of all features to all clusters", plan.assignments, "{:.2f}".format)
    if plan.network:
        print(f"\nnetwork per iteration\n  {'sent by each process':<34}{in_bytes(plan.network):>14}")
    if rates:
        print_part("time on machines like this one, at most", plan.seconds, in_time, sum(plan.seconds.values()))
        if (number := plan.iterations_in_time) is not None:
            print(f"  of {len(work.shares)} iterations, {number} in TIME_LIMIT ({in_time(work.time_limit)})")
        if plan.network:
            print(f"  with {network:g} Gbit/s between processes, which is assumed (--network)")
