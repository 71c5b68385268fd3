"""A run on this node: its processes, and what they end with.

With one process the run is done right here. With several, this launcher starts those of its node; on several nodes each
has a launcher, and they meet (``rendezvous.py``). Under ``torchrun`` this is one of the processes already.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

from vissl.utils.misc import get_dist_run_id
from vissl.utils.slurm import get_node_id

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.processes import failures, torchrun
from vissl_clusterfit.launch.processes.failures import FAILED, USER_ERROR, Failure
from vissl_clusterfit.launch.processes.heartbeat import Participant
from vissl_clusterfit.launch.processes.network import choose_interface, rendezvous_endpoint
from vissl_clusterfit.launch.processes.rendezvous import Failed, Rendezvous
from vissl_clusterfit.launch.processes.shared_folders import folders_to_share, require_shared
from vissl_clusterfit.launch.processes.spawn import spawn_workers
from vissl_clusterfit.launch.processes.worker import prepare_worker
from vissl_clusterfit.plugin.data.local_copies import local_copies


def launch(engine: str, node_id: int, config: Any, *, in_subprocess: bool = False) -> None:
    """Runs an engine in all processes of this node, and returns when the last of the run has finished.

    Args:
        engine: its name in VISSL.
        node_id: the number of this node.
        config: VISSL's.
        in_subprocess: start a process even for a run of one, instead of doing its work in this one.

    Raises:
        ClusterFitError: the user's mistake that a process met.
        RankFailed: a process failed otherwise.
        SystemExit: under ``torchrun``, where another process of this node says why.
    """
    run = config.DISTRIBUTED
    by_torchrun = torchrun.take_over()
    node_id = node_id if by_torchrun else get_node_id(node_id)
    _require_sense(config, node_id, by_torchrun=by_torchrun)
    host, port = rendezvous_endpoint(run)
    if run.NUM_NODES * run.NUM_PROC_PER_NODE == 1 and not in_subprocess:
        with contextlib.ExitStack() as hold:
            work = prepare_worker(engine, config, 0, get_dist_run_id(config, 1), lambda _name, decide: decide(), hold)
            if work:
                with local_copies(config):
                    work(0)
        return
    if run.NUM_NODES > 1:
        choose_interface(host, port)
    if by_torchrun:
        rank = int(os.environ["RANK"])
        participant = Participant(rank, run.NUM_NODES * run.NUM_PROC_PER_NODE, node_id, run.NUM_NODES, rank)
        has_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    else:
        participant = Participant(node_id, run.NUM_NODES, node_id, run.NUM_NODES)
        has_store = node_id == 0
    with contextlib.ExitStack() as hold, Rendezvous(participant, host, port, has_store=has_store) as rendezvous:
        try:
            _run_together(engine, config, rendezvous, hold)
            rendezvous.finish()
            return
        except Failed as failed:
            cause = rendezvous.fail(failed.failure, reported=failed.reported)
        except BaseException as error:
            cause = rendezvous.fail(failures.of_exception(error, **participant.place()))
            if isinstance(error, KeyboardInterrupt | SystemExit):  # the latter where a job is to be queued again
                raise
    _end_with(cause, participant)


def _require_sense(config: Any, node_id: int, *, by_torchrun: bool) -> None:
    num_nodes = config.DISTRIBUTED.NUM_NODES
    if not 0 <= node_id < num_nodes:
        raise ConfigError(
            problem(
                "node_id",
                found=f"{node_id} with config.DISTRIBUTED.NUM_NODES={num_nodes}",
                allowed=f"0 to {num_nodes - 1}, another one on each node",
            )
        )
    for split in ("TRAIN", "TEST"):
        if by_torchrun and config.DATA[split].COPY_TO_LOCAL_DISK:
            raise ConfigError(
                problem(
                    f"config.DATA.{split}.COPY_TO_LOCAL_DISK",
                    found="true",
                    allowed="false under torchrun, as each process would copy",
                    remedy="Copy the data before, or leave torchrun out: see docs/scaling.md.",
                )
            )


def _run_together(engine: str, config: Any, rendezvous: Rendezvous, hold: contextlib.ExitStack) -> None:
    """This node's part of the run, or under ``torchrun`` this process's."""
    participant = rendezvous.participant
    _require_same_run([engine, config.DISTRIBUTED.NUM_NODES, config.DISTRIBUTED.NUM_PROC_PER_NODE], rendezvous)
    work = prepare_worker(
        engine, config, participant.node, f"{rendezvous.host}:{rendezvous.port}", rendezvous.broadcast_from_first, hold
    )
    if not work:
        return
    if participant.nodes > 1:
        require_shared(rendezvous, folders_to_share(engine, config))
    if participant.rank is None:
        with local_copies(config):
            spawn_workers(work, config.DISTRIBUTED.NUM_PROC_PER_NODE, rendezvous)
        return

    def end(failure: Failure) -> None:
        """The main thread may be in a call that never returns."""
        if participant.local_rank == 0:
            print(failure.exception(), file=sys.stderr, flush=True)  # noqa: T201
        os._exit(FAILED)

    with rendezvous.on_failure(end):
        work(participant.local_rank)


def _require_same_run(mine: list, rendezvous: Rendezvous) -> None:
    theirs = rendezvous.broadcast_from_first("run", lambda: mine)
    names = ("engine_name", "config.DISTRIBUTED.NUM_NODES", "config.DISTRIBUTED.NUM_PROC_PER_NODE")
    wrong = [
        problem(name, found=f"{here} here and {there} on node 0", allowed="the same on every node")
        for name, here, there in zip(names, mine, theirs, strict=True)
        if here != there
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))


def _end_with(cause: Failure, participant: Participant) -> None:
    """Ends this process as the cause demands; that is said once on each node."""
    if cause.kind == failures.INTERRUPT and cause.node == participant.node:
        raise KeyboardInterrupt
    if participant.rank is None or cause.rank == participant.rank:
        error = cause.exception()
        if participant.rank is not None:
            torchrun.record(error)
        raise error from None
    if cause.node != participant.node and participant.local_rank == 0:
        raise cause.exception() from None
    time.sleep(2)  # torchrun ends the others as soon as one has ended: the one that says why goes first
    raise SystemExit(USER_ERROR if cause.kind == failures.USER_MISTAKE else FAILED)
