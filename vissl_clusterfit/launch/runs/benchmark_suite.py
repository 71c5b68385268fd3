"""The benchmarks that follow a training (``config.CLUSTERFIT.BENCHMARKS``): which runs they are, and their rows.

Each benchmark of each checkpoint is a run of the command in a separate folder,
``<config.CHECKPOINT.DIR>/benchmarks/<name>-<what it was asked>/epoch_<number>``; its rows go into the ``results.json``
of the training, too. Nothing is chosen by a score: the last checkpoint is reported, or every one, by its epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vissl.config import AttrDict
from vissl.trainer.trainer_main import build_task

from vissl_clusterfit.config.benchmarks import Benchmark, SuiteSettings
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.override_text import as_override
from vissl_clusterfit.errors import ArtifactError, ConfigError, problem
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.compose.vissl_keys import require_public_data
from vissl_clusterfit.launch.runs.subprocess_runs import SubprocessRun
from vissl_clusterfit.launch.runs.sweep import safe_name
from vissl_clusterfit.plugin.training.progress import run_folder
from vissl_clusterfit.report.results import RESULTS_NAME, append_results, read_results
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path

FOLDER_NAME = "benchmarks"
_STARTED_NAME = "benchmark_started.json"


@dataclass(frozen=True)
class SuiteRun(SubprocessRun):
    """One benchmark of one checkpoint."""

    benchmark: Benchmark = dataclasses.field(default_factory=Benchmark, compare=False)
    #: The network in the rows, with its epoch.
    model: str = ""
    weights: str = ""
    #: The folder of the training.
    training: str = ""

    record_name: ClassVar[str] = "benchmark_run.json"

    @property
    def is_finished(self) -> bool:
        """Whether it was run before, on the same weights, to its end."""
        return (artifact_path(self.folder) / self.record_name).is_file() and super().is_finished

    def begin(self) -> None:
        """Checks that what is in its folder is of the same weights.

        Raises:
            ArtifactError: the checkpoint is not there, or another one of this name was evaluated in this folder.
        """
        started = artifact_path(self.folder) / _STARTED_NAME
        record = self.record()
        if not started.is_file():
            started.parent.mkdir(parents=True, exist_ok=True)
            artifacts.write_json(started, record)
        elif artifacts.read_json(started) != record:
            raise ArtifactError(
                f"{self.folder} has what was measured on another {self.weights}, which was made again since. Move the "
                "folder away, and start again."
            )

    def finish(self) -> None:
        """Puts its rows into the results of the training, and writes down that it was run to its end.

        Raises:
            ArtifactError: it left no rows.
        """
        folder = artifact_path(self.folder)
        if not (folder / RESULTS_NAME).is_file():
            raise ArtifactError(f"{self.folder} has no {RESULTS_NAME}: {self.benchmark.config} measures nothing.")
        rows = [dataclasses.replace(row, model=self.model) for row in read_results(folder)]
        append_results(artifact_path(self.training), rows)
        super().finish()

    def record(self) -> dict[str, Any]:
        """What is evaluated, and how; on which machine is left out."""
        return {
            "config": self.benchmark.config,
            "overrides": list(self.benchmark.overrides),
            "weights": artifacts.file_sha256(artifact_path(self.weights)),
        }


@dataclass(frozen=True)
class PlannedRun:
    """A benchmark of a checkpoint, with the engine and the config that it composes to."""

    run: SuiteRun
    engine: str
    config: AttrDict


def plan_suite(engine: str, config: AttrDict, machine: Sequence[str] | None = None) -> list[PlannedRun]:
    """The benchmarks of a training, one after the other, each for its checkpoints; none if it has none.

    Args:
        engine: of the run that they follow.
        config: its config.
        machine: overrides that say where they run; if None, on this machine, as the training.

    Raises:
        ConfigError: one of them cannot be composed; nothing has been run yet then.
    """
    settings = ClusterFitConfig.from_config(config).benchmarks
    if engine != "train" or not settings.run:
        return []
    if config.TEST_ONLY:
        allowed = "[] with config.TEST_ONLY=true, which trains nothing"
        raise ConfigError(problem("config.CLUSTERFIT.BENCHMARKS.RUN", found=settings.run, allowed=allowed))
    planned = []
    for benchmark in settings.benchmarks:
        runs = _runs(benchmark, config, settings, _here(config) if machine is None else machine)
        last, (its_engine, its_config) = runs[-1], _composed(runs[-1], several_nodes=machine is not None)
        for run in runs:
            names = {last.folder: run.folder, last.weights: run.weights, last.model: run.model}
            planned.append(PlannedRun(run, its_engine, _renamed(its_config, names)))
    return planned


def _runs(benchmark: Benchmark, config: AttrDict, settings: SuiteSettings, machine: Sequence[str]) -> list[SuiteRun]:
    """The runs of one benchmark, that of the last checkpoint last."""
    folder = run_folder(config)
    name = settings.model_name or folder.rstrip("/").rpartition("/")[2]
    asked = artifacts.content_hash([benchmark.config, list(benchmark.overrides)])[:8]
    runs = []
    for epoch, file in list(_checkpoints(config))[0 if settings.checkpoints == "every" else -1 :]:
        run = SuiteRun(
            name=f"{benchmark.label}, epoch {epoch}",
            overrides=(),
            folder=f"{folder}/{FOLDER_NAME}/{safe_name(benchmark.label)}-{asked}/epoch_{epoch}",
            benchmark=benchmark,
            model=f"{name}, epoch {epoch}",
            weights=f"{folder}/{file}",
            training=folder,
        )
        runs.append(dataclasses.replace(run, overrides=tuple(_overrides(run, config, machine))))
    return runs


def _checkpoints(config: AttrDict) -> Iterator[tuple[str, str]]:
    """The epochs after which VISSL writes a checkpoint, as text, and its names of the files; the last one last."""
    phases = sum(phase["train"] for phase in build_task(config)._build_phases())
    per_epoch = phases / config.OPTIMIZER.num_epochs
    for phase in range(phases):
        epoch = f"{(phase + 1) / per_epoch:g}"
        if phase == phases - 1:
            yield epoch, f"model_final_checkpoint_phase{phase}.torch"
        elif phase % config.CHECKPOINT.CHECKPOINT_FREQUENCY == 0:
            yield epoch, f"model_phase{phase}.torch"


def _here(config: AttrDict) -> list[str]:
    return [
        as_override("config.MACHINE.DEVICE", config.MACHINE.DEVICE),
        "config.DISTRIBUTED.NUM_NODES=1",
        as_override("config.DISTRIBUTED.NUM_PROC_PER_NODE", config.DISTRIBUTED.NUM_PROC_PER_NODE),
        "config.DISTRIBUTED.INIT_METHOD=tcp",
        "config.DISTRIBUTED.RUN_ID=auto",
    ]


def _overrides(run: SuiteRun, config: AttrDict, machine: Sequence[str]) -> list[str]:
    """The command of a benchmark: the network and the seed of the training, what the user says, and the checkpoint."""
    return [
        f"config={run.benchmark.config}",
        *machine,
        as_override("++config.MODEL.TRUNK", config.MODEL.TRUNK),
        as_override("config.MODEL.INPUT_TYPE", config.MODEL.INPUT_TYPE),
        as_override("config.SEED_VALUE", config.SEED_VALUE),
        as_override("++config.BENCHMARK.MODEL_NAME", run.model),
        *run.benchmark.overrides,
        as_override("config.MODEL.WEIGHTS_INIT.PARAMS_FILE", run.weights),
        as_override("config.CHECKPOINT.DIR", run.folder),
        "config.CHECKPOINT.AUTO_RESUME=true",
        "config.CHECKPOINT.OVERWRITE_EXISTING=false",
    ]


def _composed(run: SuiteRun, *, several_nodes: bool) -> tuple[str, AttrDict]:
    place = f"config.CLUSTERFIT.BENCHMARKS.RUN, {run.benchmark.label}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it is said again when the benchmark starts
            engine, _, config = compose(list(run.overrides))
            require_public_data(config)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    if config.DISTRIBUTED.NUM_NODES > 1 and not several_nodes:
        found = f"{config.DISTRIBUTED.NUM_NODES} in {place}"
        allowed = "1, or as many as you like in jobs of SLURM"
        raise ConfigError(problem("config.DISTRIBUTED.NUM_NODES", found=found, allowed=allowed))
    if ClusterFitConfig.from_config(config).benchmarks.run:
        found = "a config with benchmarks of its own"
        raise ConfigError(problem(place, found=found, allowed="a benchmark"))
    return engine, config


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A composed config with other names of places: as it would be composed for them, at no cost."""
    if isinstance(value, dict):
        return type(value)({key: _renamed(each, names) for key, each in value.items()})
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str):
        for name, other in names.items():
            value = value.replace(name, other)
    return value
