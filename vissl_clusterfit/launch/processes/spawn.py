"""The processes that a launcher starts on its node, watched until the last has ended or the first has failed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from vissl_clusterfit.launch.processes import failures
from vissl_clusterfit.launch.processes.failures import FAILED, Failure
from vissl_clusterfit.launch.processes.rendezvous import Failed, Rendezvous

_POLL_S = 0.2
# Others fail a moment after the first, and one that was killed is seen to be dead a moment after that.
_GRACE_S = 2.0
_END_S = 5.0
# What ends because of a Ctrl-C has readers and files of its own to end, on a busy machine for seconds; told to end
# meanwhile, it would leave them.
_INTERRUPTED_S = 15.0


def spawn_workers(work: Callable[[int], None], num_processes: int, rendezvous: Rendezvous) -> None:
    """Runs ``work(local_rank)`` in new processes; ``work`` must pickle. None is left when this returns.

    They find each other through the store of the rendezvous.

    Raises:
        Failed: one of them failed, or another participant of the rendezvous.
    """
    first = rendezvous.participant.node * num_processes
    places = [rendezvous.participant.place(first + local_rank) for local_rank in range(num_processes)]
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.start_processes(
            _worker_main,
            args=(work, folder, places, rendezvous.host, rendezvous.port),
            nprocs=num_processes,
            join=False,
            start_method="spawn",
        )
        try:
            while running := [process for process in context.processes if process.exitcode is None]:
                if any(process.exitcode for process in context.processes):
                    break
                rendezvous.check()
                wait([process.sentinel for process in running], _POLL_S)
            if not any(process.exitcode for process in context.processes):
                return
            _wait_for_end(context.processes, _GRACE_S)
            codes = [process.exitcode or 0 for process in context.processes]
        except KeyboardInterrupt:  # which they have got from the terminal, too
            _wait_for_end(context.processes, _INTERRUPTED_S)
            raise
        finally:
            _end(context.processes)
        raise Failed(_cause(Path(folder), codes, places, context.error_files))


def _worker_main(
    local_rank: int, work: Callable[[int], None], folder: str, places: Sequence[dict[str, Any]], host: str, port: int
) -> None:
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    # As torchrun does: the store is there already.
    os.environ.update(
        TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0", MASTER_ADDR=host, MASTER_PORT=str(port)
    )
    try:
        work(local_rank)
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        failure = failures.of_exception(error, **places[local_rank])
        name = f"{time.time_ns()}-{local_rank}"
        (Path(folder) / f".{name}").write_text(failure.to_json(), "utf-8")
        os.replace(Path(folder) / f".{name}", Path(folder) / name)
        sys.exit(FAILED)


def _end_with_launcher() -> None:
    """PyTorch has a worker interrupted when its launcher dies, which a call that never returns does not notice.

    Such a call is the wait for the store of other ranks that are gone.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None, "a worker is started by a launcher"
    launcher.join()
    time.sleep(_END_S)
    os._exit(FAILED)


def _cause(folder: Path, codes: Sequence[int], places: Sequence[dict[str, Any]], error_files: Sequence[str]) -> Failure:
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    found = [Failure.from_json(file.read_text("utf-8")) for file in files]
    said = {failure.rank for failure in found}
    for code, place, error_file in zip(codes, places, error_files, strict=True):
        if code and place["rank"] not in said:
            if Path(error_file).exists():  # it failed before it came to our code
                found.append(Failure(failures.ERROR, pickle.loads(Path(error_file).read_bytes()).rstrip(), **place))
            else:
                found.append(failures.of_exit_code(code, **place))
    return failures.root_cause(found)


def _wait_for_end(processes: Sequence[multiprocessing.process.BaseProcess], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))


def _end(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Ends those that still run; Python would wait for them at its own end."""
    for process in processes:
        process.terminate()
    _wait_for_end(processes, _END_S)
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
