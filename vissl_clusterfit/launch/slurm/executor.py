"""From stages and what they ask for to jobs of submitit's executors, for SLURM or on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from vissl_clusterfit.config.slurm import SlurmSettings
from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem
from vissl_clusterfit.launch.slurm.job import Job, StageRun

# A job starts with ``-m``, by which Python looks in the working directory first; not with ``-P``, which 3.10 lacks.
_PYTHON = shlex.quote(sys.executable) + (" -P" if sys.version_info >= (3, 11) else "")


@dataclass(frozen=True)
class Resources:
    """What a job asks for. ``num_gpus`` is per node."""

    settings: SlurmSettings
    num_nodes: int
    num_processes: int
    num_gpus: int

    @classmethod
    def of_all(cls, each: Sequence[Resources]) -> Resources:
        """What one job asks for that does the work of several, one after the other."""
        return cls(
            dataclasses.replace(
                each[0].settings, time_hours=0, time_minutes=sum(one.settings.timeout_min for one in each)
            ),
            max(one.num_nodes for one in each),
            max(one.num_processes for one in each),
            max(one.num_gpus for one in each),
        )


@dataclass(frozen=True)
class WantedJob:
    """A job: what it runs, one after the other, and the number of the one that must have ended well before."""

    runs: list[StageRun]
    resources: Resources
    after: int | None = None


@dataclass(frozen=True)
class SubmittedJob:
    """A job that is queued, or runs already."""

    job_id: str
    description: str
    log: Path


def submit_jobs(jobs: Sequence[WantedJob], folder: Path, settings: SlurmSettings) -> list[SubmittedJob]:
    """Submits jobs, in an order in which each comes after the one that it waits for.

    Raises:
        ClusterFitError: one is refused; those before it are cancelled.
    """
    if settings.cluster == "slurm":
        _require_slurm()
    submitted: list[tuple[Any, SubmittedJob]] = []
    for wanted in jobs:
        before = None if wanted.after is None else submitted[wanted.after][0].job_id
        names = ", ".join(run.name for run in wanted.runs)
        executor = _executor(wanted.resources, folder, before)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # what sbatch says is in the exception, too
                job = executor.submit(Job(wanted.runs))
        except (FailedJobError, FailedSubmissionError) as error:
            for earlier, _ in submitted:
                earlier.cancel(check=False)
            cancelled = "".join(f" Job {earlier.job_id} is cancelled again." for earlier, _ in submitted)
            raise ClusterFitError(f"SLURM refuses the job of {names}: {str(error).strip()}{cancelled}") from None
        size = f"{wanted.resources.num_nodes} x {wanted.resources.num_processes} processes"
        waits = f", after job {before}" if before else ""
        submitted.append((job, SubmittedJob(job.job_id, f"{names}, {size}{waits}", job.paths.stdout)))
    return [job for _, job in submitted]


def _require_slurm() -> None:
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if missing:
        raise ConfigError(
            problem(
                "config.SLURM.USE_SLURM",
                found=f"true, and there is no {' and no '.join(missing)} on the PATH",
                allowed="true where jobs can be submitted to SLURM",
                remedy="Submit from a machine of the cluster, or set config.SLURM.CLUSTER=local.",
            )
        )


def _executor(resources: Resources, folder: Path, after: str | None) -> submitit.AutoExecutor:
    settings = resources.settings
    local = settings.cluster == "local"
    if local and resources.num_nodes > 1:
        found = f"{resources.num_nodes} with config.SLURM.CLUSTER=local"
        raise ConfigError(problem("config.DISTRIBUTED.NUM_NODES", found=found, allowed="1"))
    executor = submitit.AutoExecutor(
        folder,
        cluster=settings.cluster,
        slurm_python=_PYTHON,
        slurm_max_num_timeout=settings.max_timeouts,
        local_python=_PYTHON,
        local_max_num_timeout=settings.max_timeouts,
    )
    executor.update_parameters(
        timeout_min=settings.timeout_min,
        nodes=resources.num_nodes,
        tasks_per_node=1,
        gpus_per_node=resources.num_gpus or None,
    )
    if local:
        return executor
    cpus = settings.num_cpu_per_proc * resources.num_processes
    options: dict[str, Any] = {"requeue": True}
    if after:
        options["kill-on-invalid-dep"] = "yes"  # or it would stay in the queue for ever once the one before has failed
    executor.update_parameters(
        name=settings.name,
        mem_gb=settings.mem_gb,
        cpus_per_task=cpus,
        slurm_comment=settings.comment or None,
        slurm_partition=settings.partition or None,
        slurm_constraint=settings.constraint or None,
        slurm_dependency=f"afterok:{after}" if after else None,
        slurm_additional_parameters={**options, **settings.additional_parameters},
        # Since 22.05, srun does not know how many CPUs sbatch has asked for. And no task should wait for a dead node.
        slurm_srun_args=[f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
    )
    return executor
