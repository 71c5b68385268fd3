"""What a config says of its run, and what its extraction and its training will take."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.batch_size import FIXED
from vissl_clusterfit.planner.networks import StagePlan, forward_cost, partial_head_bytes, training_cost
from vissl_clusterfit.planner.plan import Machine, Plan, in_bytes, in_time
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.progress.step import Progress

_BATCHES = {
    "extraction": "config.CLUSTERFIT.FEATURES.BATCH_SIZE",
    "training": "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA",
}


@dataclass(frozen=True)
class Run:
    """What a config says of the run; its defaults without one. ``config`` is VISSL's, ``engine`` one of its engines."""

    settings: ClusterFitConfig = ClusterFitConfig()
    processes: int = 1
    machines: int = 1
    device: str = "cpu"
    config: Any = None
    engine: str = ""

    @functools.cached_property
    def extraction(self) -> tuple[Any, Any]:
        """Its images, and the teacher's network without weights."""
        from vissl_clusterfit.plugin.planned import extraction_parts

        return extraction_parts(self.config, self.settings, self.torch_device)

    @property
    def torch_device(self) -> torch.device:
        """Where its networks can be measured on this machine."""
        return torch.device("cuda" if self.device == "gpu" and torch.cuda.is_available() else "cpu")

    @property
    def is_timed(self) -> bool:
        """Whether this machine has the device of the run."""
        return self.device == "cpu" or torch.cuda.is_available()


def run_of(overrides: list[str]) -> Run:
    """What the overrides of a command line say.

    Raises:
        ConfigError: they name no config, or one that cannot be composed.
    """
    if not overrides:
        return Run()
    if not any(override.startswith("config=") for override in overrides):
        raise ConfigError(problem("The command", found=overrides[0], allowed="config=<name>, overrides, or options"))
    from vissl_clusterfit.launch.compose.early import compose_early

    early = compose_early(overrides)
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (before VISSL)

    from vissl_clusterfit.launch.compose.compose import compose  # isort: skip

    kept = early[0]["config"]["CHECKPOINT"]["DIR"]
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        early[0]["config"]["CHECKPOINT"]["DIR"] = folder  # VISSL writes the config there, and nothing is to be written
        engine, _, config = compose(overrides, early)
    config.CHECKPOINT.DIR, run = kept, config.DISTRIBUTED
    device = "cpu" if config.MACHINE.DEVICE == "cpu" else "gpu"
    settings = ClusterFitConfig.from_config(config)
    return Run(settings, run.NUM_NODES * run.NUM_PROC_PER_NODE, run.NUM_NODES, device, config, engine)


def stages_of(run: Run, num_samples: int, progress: Progress, *, features_are_there: bool) -> dict[str, StagePlan]:
    """Extraction, where there is one to do, and training, where the run trains.

    Args:
        run: of a config.
        num_samples: N.
        progress: counts both.
        features_are_there: whether they are on disk already.
    """
    from vissl_clusterfit.plugin.planned import checkpoint_bytes, partial_heads, training_images, training_parts

    cfg, stages = run.config, {}
    common: dict[str, Any] = {
        "processes": run.processes,
        "machines": run.machines,
        "workers": cfg.DATA.NUM_DATALOADER_WORKERS,
        "shares_processors": run.device == "cpu",
    }
    with contextlib.redirect_stdout(sys.stderr):
        if not features_are_there:
            cost = forward_cost(*run.extraction, timed=run.is_timed)
            stages["extraction"] = StagePlan(num_samples, run.settings.features.batch_size or FIXED, cost, **common)
        progress.add(1, "the teacher is measured")
        if run.engine == "train" and not cfg.TEST_ONLY:
            network, optimizer, state = training_parts(cfg, run.torch_device)
            cost = training_cost(training_images(cfg), network, optimizer, state, timed=run.is_timed)
            for head in partial_heads(cfg):
                fixed, of_image = partial_head_bytes(*head, run.processes)
                cost = replace(cost, fixed_bytes=cost.fixed_bytes + fixed, image_bytes=cost.image_bytes + of_image)
            limit = cfg.DATA.TRAIN.DATA_LIMIT
            whole = min(num_samples, limit) if limit >= 0 else num_samples
            seen = run.settings.balanced_samples or whole
            stages["training"] = StagePlan(
                seen * int(cfg.OPTIMIZER.num_epochs),
                cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA,
                cost,
                **common,
                disk=checkpoint_bytes(cfg, network, state),
            )
        progress.complete()
    return stages


def stage_warnings(stages: Mapping[str, StagePlan], machine: Machine, work: Workload) -> Iterator[str]:
    """What does not fit into the memory of a machine, or of its GPU, each with the setting to change."""
    for name, stage in stages.items():
        on_card = machine.card is not None
        taken = stage.memory * (1 if on_card else work.processes_per_machine)
        there = machine.card if on_card else machine.memory
        if there is not None and taken > there:
            where = "GPU memory" if on_card else "Memory"
            yield (
                f"{where}: {name} takes {in_bytes(taken)}, {in_bytes(there)} are available. Lower {_BATCHES[name]}, "
                f"now {stage.batch_size}."
            )
    disk = sum(stage.disk for stage in stages.values())
    if machine.disk is not None and disk > machine.disk:
        yield (
            f"Disk: checkpoints take {in_bytes(disk)}, {in_bytes(machine.disk)} are free. Raise "
            "config.CHECKPOINT.CHECKPOINT_FREQUENCY, set config.CHECKPOINT.DIR to a larger file system, or make room."
        )


def print_stages(stages: Mapping[str, StagePlan], plan: Plan) -> None:
    """Extraction and training, and then the whole run."""
    for name, stage in stages.items():
        print(f"\n{name} of {stage.num_images:,} images, in batches of {stage.batch_size} in each process")
        print(f"  {'reading an image, in one process':<34}{in_time(stage.cost.read):>14}")
        if stage.cost.compute is not None:
            print(f"  {'its way through the network':<34}{in_time(stage.cost.compute):>14}")
        print(f"  {'memory per process':<34}{in_bytes(stage.memory):>14}")
        if stage.disk:
            print(f"  {'disk, for checkpoints':<34}{in_bytes(stage.disk):>14}")
        print(f"  {'in all':<34}{'not measured' if stage.seconds is None else in_time(stage.seconds):>14}")
    if not stages:
        return
    seconds = {name: stage.seconds for name, stage in stages.items()}
    times = {name: value for name, value in seconds.items() if value is not None}
    times |= {"clustering": plan.clustering_seconds, "labelling": plan.seconds.get("labels", 0.0)}
    in_order = ("extraction", "clustering", "labelling", "training")
    print_part("the whole run, on machines like this one", {name: times.get(name, 0.0) for name in in_order}, in_time)
    disk = sum(plan.disk.values()) + sum(stage.disk for stage in stages.values())
    print(f"  {'disk':<34}{in_bytes(disk):>14}")
    if missing := [name for name, value in seconds.items() if value is None]:
        print(f"  without {' and '.join(missing)}: the run's device is a GPU, and this machine has none")


def print_part(title: str, parts: Any, form: Any, total: float | None = None) -> None:
    """A heading, what is under it, and the sum."""
    print(f"\n{title}")
    for name, value in parts.items():
        if value:
            print(f"  {name:<34}{form(value):>14}")
    if len([value for value in parts.values() if value]) > 1:
        print(f"  {'in all':<34}{form(sum(parts.values()) if total is None else total):>14}")
