"""Says what a clustering will take, before it runs: memory, disk, passes over the data, network and time.

    python tools/plan_clustering.py --num-samples 1e9 --dim 1024 --num-clusters 1e6 --processes 64 --machines 8
    python tools/plan_clustering.py config=clusterfit/imagenet1k/rotnet_resnet50 --num-samples 1281167 --dim 2048
    python tools/plan_clustering.py --features runs/student/clusterfit/features/train --num-clusters 16000

Times come from about two seconds of the very work on this machine, and hold for machines like it. With a config,
settings are those of the run (overrides as on its command line), N is counted in its data, D comes from one image
through the network of its teacher, without weights; options of this command come before all of them.
Exit code 0; 2 for a mistake, said in one message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.planner.calibration import calibrate, product_bytes, this_machine
from vissl_clusterfit.planner.plan import Plan, Rates, in_bytes, in_time, make_plan, warnings
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.search.backends import require_backend
from vissl_clusterfit.storage.artifacts import has_manifest
from vissl_clusterfit.storage.paths import artifact_path


def _count(text: str) -> int:
    """A whole number, also as 1e9."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number == int(number) and abs(number) <= 2**53):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number, such as 1000000 or 1e6.")
    return int(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", metavar="config=NAME", help="of the run, and overrides of it")
    parser.add_argument("--features", metavar="FOLDER", help="of a feature store: it says N, D and dtype")
    parser.add_argument("--num-samples", type=_count, metavar="N")
    parser.add_argument("--dim", type=_count, metavar="D", help="of the features")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="of the features on disk")
    parser.add_argument("--num-clusters", type=_count, metavar="K")
    parser.add_argument("--num-iter", type=_count)
    parser.add_argument("--num-components", type=_count, help="principal components that are kept; 0 for no projection")
    parser.add_argument("--data-limit", type=_count, help="features that are clustered; -1 for all")
    parser.add_argument("--backend", choices=("torch", "faiss"))
    parser.add_argument("--device", choices=("cpu", "gpu"))
    parser.add_argument("--processes", type=_count, metavar="P", help="of the whole run")
    parser.add_argument("--machines", type=_count, help="on which they are; 1 unless the config says otherwise")
    parser.add_argument("--network", type=float, default=10.0, help="Gbit/s between processes, assumed (%(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="where the artefacts will be: its disk is looked at")
    parser.add_argument("--no-calibration", action="store_true", help="measure nothing: no times")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Prints the plan of the command line and returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        _plan(options)
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(options: argparse.Namespace) -> None:
    if not (math.isfinite(options.network) and options.network > 0):
        raise ConfigError(problem("--network", found=options.network, allowed="more than 0, in Gbit/s"))
    run = _run_of(options.overrides)
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
    rates = None if options.no_calibration else _rates(work, store, output, options.network * 1e9 / 8)
    plan = make_plan(work, product_bytes(work), rates)
    found = list(warnings(plan, this_machine(output, work.device), features_are_there=store is not None))
    if options.json:
        print(json.dumps(plan.as_json() | {"rates": rates and asdict(rates), "warnings": found}, indent=2))
    else:
        _print_table(plan, rates, options.network)
        for text in found:
            print(f"warning: {text}")


@dataclass(frozen=True)
class _Run:
    """What a config says of the run; its defaults without one. ``config`` is VISSL's."""

    settings: ClusterFitConfig = ClusterFitConfig()
    processes: int = 1
    machines: int = 1
    device: str = "cpu"
    config: Any = None


def _run_of(overrides: list[str]) -> _Run:
    if not overrides:
        return _Run()
    if not any(override.startswith("config=") for override in overrides):
        raise ConfigError(problem("The command", found=overrides[0], allowed="config=<name>, overrides, or options"))
    from vissl_clusterfit.launch.compose.early import compose_early

    early = compose_early(overrides)
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (before VISSL)

    from vissl_clusterfit.launch.compose.compose import compose  # isort: skip

    with contextlib.redirect_stdout(sys.stderr):
        _, _, config = compose(overrides, early)
    run = config.DISTRIBUTED
    device = "cpu" if config.MACHINE.DEVICE == "cpu" else "gpu"
    settings = ClusterFitConfig.from_config(config.CLUSTERFIT)
    return _Run(settings, run.NUM_NODES * run.NUM_PROC_PER_NODE, run.NUM_NODES, device, config)


def _sizes(run: _Run, num_samples: int | None, dim: int | None) -> tuple[int, int]:
    """N and D of the features that the run will take, where they are not given."""
    from vissl_clusterfit.plugin.data.split_images import SplitImages
    from vissl_clusterfit.plugin.models.encoder import build_encoder, untrained_teacher

    features = run.settings.features
    images = SplitImages(run.config, features.data_partition, features.transforms, num_clips=features.num_clips)
    if dim is None:
        encode = build_encoder(untrained_teacher(run.config.MODEL, run.settings.teacher, features), torch.device("cpu"))
        image = next((image for image, error in map(images.__getitem__, range(len(images))) if not error), None)
        if image is None:
            raise ConfigError(problem("--dim", found="nothing, and no image that can be read", allowed="a number"))
        with torch.inference_mode():
            dim = encode(image.unsqueeze(0)).shape[1]
    return len(images) if num_samples is None else num_samples, dim


def _workload(options: argparse.Namespace, run: _Run, store: FeatureStore | None) -> Workload:
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

    def take(count: int) -> Any:
        return store.read(0, min(count, store.num_samples))

    return calibrate(
        work, take=take if store else None, folder=output, seconds=2.0, shared_by=shared_by, network=network
    )


def _print_table(plan: Plan, rates: Rates | None, network: float) -> None:
    work = plan.work
    print(
        f"{work.num_vectors:,} of {work.num_samples:,} features of dimension {work.input_dim:,} into "
        f"{work.num_clusters:,} clusters, {work.num_iter} iterations\n"
        f"{work.processes} process(es) on {work.machines} machine(s), {work.device}, {work.backend}"
    )
    _print_part("memory per process", plan.memory.parts, in_bytes, plan.memory.total)
    print(f"  in the phase: {plan.memory.phase}; above what a process has after its imports")
    if plan.card:
        print(f"  on its GPU: {in_bytes(plan.card)}")
    _print_part("disk", plan.disk, in_bytes, sum(plan.disk.values()))
    _print_part("reads, in passes over the features", plan.reads, "{:.2f}".format)
    _print_part("assignments, of all features to all clusters", plan.assignments, "{:.2f}".format)
    if plan.network:
        print(f"\nnetwork per iteration\n  {'sent by each process':<34}{in_bytes(plan.network):>14}")
    if rates:
        _print_part("time on machines like this one, at most", plan.seconds, in_time, sum(plan.seconds.values()))
        if plan.network:
            print(f"  with {network:g} Gbit/s between processes, which is assumed (--network)")


def _print_part(title: str, parts: Any, form: Any, total: float | None = None) -> None:
    print(f"\n{title}")
    for name, value in parts.items():
        if value:
            print(f"  {name:<34}{form(value):>14}")
    if len([value for value in parts.values() if value]) > 1:
        print(f"  {'in all':<34}{form(sum(parts.values()) if total is None else total):>14}")


if __name__ == "__main__":
    sys.exit(main())
