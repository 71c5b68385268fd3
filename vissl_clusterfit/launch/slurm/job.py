"""What a job runs on each of its nodes, pickled by reference: so its first import is the repairs, before VISSL's."""

from __future__ import annotations

from vissl_clusterfit.plugin import bootstrap  # isort: split

import copy
import logging
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import submitit
from submitit.core.job_environment import SignalHandler
from vissl.config import AttrDict

from vissl_clusterfit.config.slurm import VISSLS_PORT
from vissl_clusterfit.errors import mendable
from vissl_clusterfit.launch.processes.failures import DONE, FAILED, USER_ERROR, RankFailed
from vissl_clusterfit.launch.runs.benchmark_suite import SuiteRun
from vissl_clusterfit.launch.runs.execute import execute, summarize
from vissl_clusterfit.plugin.device import require_device

logger = logging.getLogger(__name__)

#: Below the ports that Linux gives to outgoing connections.
_FIRST_PORT, _NUM_PORTS = 12000, 20000


@dataclass(frozen=True)
class StageRun:
    """One run of an engine: its name for people, VISSL's name of it, and VISSL's ``config``.

    The others continue when a ``benchmark`` fails; they need nothing of it.
    """

    name: str
    engine: str
    config: AttrDict
    benchmark: SuiteRun | None = None


class Job:
    """Runs in one task per node, one stage after the other; a stage that is done ends at once.

    This process only waits for the ranks, so that it hears of preemption and time-out at once, whatever they compute.

    Args:
        stages: in order.
    """

    def __init__(self, stages: Sequence[StageRun]) -> None:
        self.stages = list(stages)

    def __call__(self) -> None:
        """Called by submitit; any exit code but 0 keeps the jobs from running that depend on this one."""
        bootstrap.cover_children()
        SignalHandler.has_timed_out = has_timed_out
        environment = submitit.JobEnvironment()
        failed: dict[str, int] = {}
        try:
            for stage in self.stages:
                code = self._run(stage, environment)
                if code != DONE:
                    failed[stage.name] = code
                    if not stage.benchmark:
                        break
        finally:
            for process in multiprocessing.active_children():  # submitit's handler of signals raises; Python would wait
                process.kill()
        if failed:
            if len(self.stages) > 1:
                print(f"FAILED: {'; '.join(failed)}.", file=sys.stderr)  # noqa: T201  (the log of the job)
            sys.exit(USER_ERROR if set(failed.values()) == {USER_ERROR} else FAILED)

    @staticmethod
    def _run(stage: StageRun, environment: submitit.JobEnvironment) -> int:
        """The exit code of one stage, whose message is in the log."""
        is_first, benchmark = environment.node == 0, stage.benchmark
        try:
            if benchmark and benchmark.is_finished:
                print(f"{stage.name}: was finished before.", flush=True)  # noqa: T201
            else:
                print(f"{stage.name}: job {environment.job_id} on {environment.hostname}.", flush=True)  # noqa: T201
                config = copy.deepcopy(stage.config)  # a run changes it, and the next attempt starts from here
                _let_processes_meet(config, environment)
                require_device(config)
                if benchmark and is_first:
                    benchmark.begin()
                execute(stage.engine, environment.node, config, in_subprocess=True)
                if is_first:
                    print(summarize(stage.engine, config), flush=True)  # noqa: T201
            if benchmark and is_first:
                benchmark.finish()
            return DONE
        except RankFailed as error:
            print(error, file=sys.stderr)  # noqa: T201
            return FAILED
        except Exception as error:
            if not (mistake := mendable(error)):
                raise
            print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
            return USER_ERROR

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit before the job is queued again: everything to resume from is on disk."""
        return submitit.helpers.DelayedSubmission(Job(self.stages))


def _let_processes_meet(config: AttrDict, environment: submitit.JobEnvironment) -> None:
    wanted = config.SLURM.PORT_ID
    config.DISTRIBUTED.INIT_METHOD = "tcp"
    if config.DISTRIBUTED.NUM_NODES == 1 and wanted == VISSLS_PORT:
        config.DISTRIBUTED.RUN_ID = "auto"  # a port that is free
    else:
        port = job_port(environment.job_id) if wanted == VISSLS_PORT else wanted
        config.DISTRIBUTED.RUN_ID = f"{environment.hostnames[0]}:{port}"


def has_timed_out(handler: SignalHandler) -> bool:
    """Whether a job that is asked to end has reached its time limit; else it was preempted, which does not count.

    submitit takes the last ten minutes for the limit, and so every preemption below ten minutes. Here they are the last
    two of a short job, as SLURM tells a job of its limit 90 s ahead.
    """
    limit_s = 60 * handler._delayed._timeout_min
    margin_s = 600 if limit_s >= 1200 else 120
    return time.time() - handler._start_time >= min(0.8 * limit_s, limit_s - margin_s)


def job_port(job_id: str) -> int:
    """The port of a job of several nodes: all of them can tell it, and the next 19,999 jobs have another."""
    return _FIRST_PORT + int(job_id.partition("_")[0]) % _NUM_PORTS
