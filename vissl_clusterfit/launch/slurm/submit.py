"""From a run with ``config.SLURM.USE_SLURM=true`` to jobs: one for everything, or a chain with one for each stage."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.override_text import as_override
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.config.slurm import SlurmSettings, StageJob
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.runs.benchmark_suite import PlannedRun, plan_suite
from vissl_clusterfit.launch.slurm.executor import Resources, SubmittedJob, WantedJob, submit_jobs
from vissl_clusterfit.launch.slurm.job import StageRun
from vissl_clusterfit.plugin.device import require_device
from vissl_clusterfit.plugin.training.progress import run_folder
from vissl_clusterfit.plugin.training.start import is_done
from vissl_clusterfit.storage import artifacts

_ENGINES = {
    "extract": "clusterfit_extract",
    "cluster": "clusterfit_cluster",
    "label": "clusterfit_label",
    "train": "train",
}


@dataclass(frozen=True)
class _Plan:
    """A job: a stage, or a benchmark with a run for each checkpoint; and what it asks for."""

    runs: list[StageRun]
    settings: SlurmSettings


def submit(overrides: Sequence[str], engine: str, config: AttrDict) -> None:
    """Submits a run, says how to follow and to cancel it, and returns without waiting for it.

    Args:
        overrides: of the command, from which the config of each stage is composed.
        engine: and ``config``: what they compose to.

    Raises:
        ClusterFitError: a setting is wrong, or SLURM refuses.
    """
    _refuse_inside_a_job()
    settings = read_settings(SlurmSettings, config.SLURM, "config.SLURM")
    stages = [plan for plan in _plan(overrides, engine, config, settings) if not _is_there(plan)]
    _warn_of_what_starts_over(stages)
    jobs = [
        WantedJob(plan.runs, _resources(plan), number - 1 if number else None) for number, plan in enumerate(stages)
    ]
    for plan in _plan_benchmarks(engine, config, settings):
        # The training may be one that starts over in the folder of another.
        if stages or not _is_there(plan):
            jobs.append(WantedJob(plan.runs, _resources(plan), len(stages) - 1 if stages else None))
    if not jobs:
        return
    folder = _log_folder(settings)
    if settings.cluster == "local":  # which knows no dependencies: one job runs the stages in order
        runs = [run for job in jobs for run in job.runs]
        jobs = [WantedJob(runs, Resources.of_all([job.resources for job in jobs]))]
    _report(submit_jobs(jobs, folder, settings), folder, settings.cluster)


def _refuse_inside_a_job() -> None:
    inside = next((name for name in ("SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID") if name in os.environ), None)
    if inside:
        raise ConfigError(
            problem(
                "config.SLURM.USE_SLURM",
                found=f"true inside job {os.environ[inside]} ({inside} is set)",
                allowed="false there: a job does the work itself and submits nothing",
                remedy="Set config.SLURM.USE_SLURM=false to use this job, or submit from outside of it.",
            )
        )


def _plan(overrides: Sequence[str], engine: str, config: AttrDict, settings: SlurmSettings) -> list[_Plan]:
    chain = ClusterFitConfig.from_config(config).slurm
    if not chain.stages:
        require_device(config, local=False)
        return [_Plan([StageRun(engine, engine, config)], settings)]
    if engine != "train":
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.SLURM.STAGES",
                found=f"{chain.stages} with engine_name={engine}",
                allowed="[] with any engine but train",
                remedy="Leave engine_name out: STAGES says what is run.",
            )
        )
    plans = []
    for stage, job in chain.in_order:
        with contextlib.redirect_stdout(io.StringIO()):  # what was changed in the config has been said
            name, _, its_config = compose([*overrides, f"engine_name={_ENGINES[stage]}", *job.overrides])
        asked = dataclasses.replace(job.applied_to(settings), name=f"{settings.name}-{stage}")
        plans.append(_Plan([StageRun(stage, name, its_config)], asked))
    return plans


def _plan_benchmarks(engine: str, config: AttrDict, settings: SlurmSettings) -> list[_Plan]:
    """A job for each benchmark that follows the training; none where the training is not among the stages."""
    chain = config.CLUSTERFIT.get("SLURM") or {}
    if chain.get("STAGES") and "train" not in chain["STAGES"]:
        return []
    of_the_run = {
        "DEVICE": config.MACHINE.DEVICE,
        "NUM_PROC_PER_NODE": config.DISTRIBUTED.NUM_PROC_PER_NODE,
        **{name: value for name, value in _as_block(settings).items() if hasattr(StageJob(), name.lower())},
    }
    name = "config.CLUSTERFIT.SLURM.BENCHMARK"
    job = read_settings(StageJob, {**of_the_run, **(chain.get("BENCHMARK") or {})}, name)
    asked = _as_block(job.applied_to(settings))
    machine = [*job.overrides, *(as_override(f"++config.SLURM.{name}", value) for name, value in asked.items())]
    by_name: dict[str, list[PlannedRun]] = {}
    for planned in plan_suite(engine, config, machine):
        by_name.setdefault(planned.run.benchmark.label, []).append(planned)
    plans = []
    for label, of_each in by_name.items():
        runs = [StageRun(planned.run.name, planned.engine, planned.config, planned.run) for planned in of_each]
        its_own = read_settings(SlurmSettings, of_each[0].config.SLURM, "config.SLURM")
        plans.append(_Plan(runs, dataclasses.replace(its_own, name=f"{settings.name}-{label}")))
    return plans


def _as_block(settings: SlurmSettings) -> dict[str, Any]:
    return {name.upper(): value for name, value in vars(settings).items()}


def _is_there(plan: _Plan) -> bool:
    """Whether all that a job would do is done, which is said."""
    for run in plan.runs:
        if not _is_done(run):
            return False
        if run.benchmark:
            run.benchmark.finish()
    print("".join(f"{run.name}: is there already; not submitted.\n" for run in plan.runs), end="")  # noqa: T201
    return True


def _is_done(run: StageRun) -> bool:
    """Whether all that the stage would make is on disk. Whether it is of this run, the stages after it check."""
    if run.benchmark:
        return run.benchmark.is_finished
    if run.engine == "train":
        folder = run_folder(run.config)
        return is_done(run.config, folder)
    if run.engine not in _ENGINES.values():
        return False
    settings = ClusterFitConfig.from_config(run.config)
    of_all = [settings, *settings.also]
    labels = [each.paths.labels(split) for each in of_all for split in settings.splits]
    own = {
        "clusterfit_extract": [settings.paths.features(split) for split in settings.splits],
        "clusterfit_cluster": [each.paths.codebook for each in of_all],
    }.get(run.engine, labels)
    return any(all(artifacts.has_manifest(folder) for folder in needed) for needed in (labels, own))


def _resources(plan: _Plan) -> Resources:
    config = plan.runs[0].config
    if plan.settings.timeout_min == 0:
        raise ConfigError(problem("config.SLURM.TIME_HOURS", found="no time at all", allowed="at least one minute"))
    nodes, processes = config.DISTRIBUTED.NUM_NODES, config.DISTRIBUTED.NUM_PROC_PER_NODE
    return Resources(plan.settings, nodes, processes, num_gpus=processes * (config.MACHINE.DEVICE == "gpu"))


def _warn_of_what_starts_over(plans: Sequence[_Plan]) -> None:
    for run in (run for plan in plans for run in plan.runs if run.engine == "train"):
        checkpoint = run.config.CHECKPOINT
        if checkpoint.OVERWRITE_EXISTING or not checkpoint.AUTO_RESUME:
            print(  # noqa: T201
                "warning: after a time-out or preemption the training starts over: config.CHECKPOINT."
                f"OVERWRITE_EXISTING={checkpoint.OVERWRITE_EXISTING}, AUTO_RESUME={checkpoint.AUTO_RESUME}."
            )


def _log_folder(settings: SlurmSettings) -> Path:
    name = "config.SLURM.LOG_FOLDER"
    allowed = "a folder that can be written here, and that every node sees under the same name"
    if "://" in settings.log_folder or "%" in settings.log_folder:
        raise ConfigError(problem(name, found=settings.log_folder, allowed=allowed))
    folder = Path(settings.log_folder).absolute()
    if not str(folder).isprintable():  # a line of the job's script begins after a line feed, and a shell runs it
        raise ConfigError(problem(name, found=repr(str(folder)), allowed="a path of one line of printable characters"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(problem(name, found=f"{folder} ({error.strerror})", allowed=allowed)) from None
    private = {Path(place) for place in (tempfile.gettempdir(), "/tmp", "/dev/shm")}
    if settings.cluster == "slurm" and private & {folder, *folder.parents}:
        print(  # noqa: T201
            f"warning: {name}: {folder} is on this machine alone as a rule. Nodes that do not see it run nothing, and "
            "cannot say so."
        )
    return folder


def _report(jobs: Sequence[SubmittedJob], folder: Path, cluster: str) -> None:
    local = cluster == "local"
    lines = [f"Submitted{'' if local else ' to SLURM'}; logs are in {folder}."]
    lines += [f"  job {job.job_id}: {job.description}, log {job.log.name}" for job in jobs]
    ids = [job.job_id for job in jobs]
    lines.append("Follow: " + ("" if local else f"squeue --jobs={','.join(ids)}; ") + f"tail -F {jobs[0].log}")
    lines.append(f"Cancel: {'kill -INT' if local else 'scancel'} {' '.join(ids)}")
    lines.append("If it fails, start the same command again: what is done is kept.")
    print("\n".join(lines))  # noqa: T201
