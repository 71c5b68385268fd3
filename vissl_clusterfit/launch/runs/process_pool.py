"""Runs in separate processes, several at a time, each forked from a server that has imported VISSL already.

A fresh interpreter spends longer on its imports than a small training takes. The server computes nothing and touches no
GPU, so what is forked from it starts clean.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vissl_clusterfit.errors import mendable
from vissl_clusterfit.launch.processes.failures import DONE, USER_ERROR
from vissl_clusterfit.launch.runs.subprocess_runs import interrupt_after

#: What imports all that runs import besides the registrations, by name: it takes seconds, and only the server needs it.
IMPORTS_AHEAD = "vissl_clusterfit.launch.runs.imports_ahead"
#: In the folder of a run: what it printed.
OUTPUT_NAME = "output.txt"

#: How long a run may take to end after Ctrl-C, with the processes that it started.
_GRACE_S = 30


class Processes:
    """A few processes at a time. Use :func:`processes`, which leaves none behind.

    Args:
        num_threads: of each process.
        main: runs a command, given its overrides, and returns the exit code; importable by name.
    """

    def __init__(self, num_threads: int, main: Callable[[list[str]], int]) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._num_threads = num_threads
        self._main = main
        self._running: dict[Path, tuple[list[str], Any]] = {}
        self._begun: list[Any] = []
        self._stopped = False

    @property
    def folders(self) -> set[Path]:
        """The folders of the runs in progress."""
        return {*self._running}

    def prepare(self) -> None:
        """Starts the server, which imports while this process does something else. From the main thread."""
        # The server hears none while it imports, nor after; one that comes meanwhile is heard here a moment later.
        multiprocessing.resource_tracker.ensure_running()  # which would unblock it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def begin(self, output: Path, command: list[str], environment: Mapping[str, str] = MappingProxyType({})) -> Any:
        """Starts a command, with these variables besides those of this process; its ``multiprocessing.Process``.

        Raises:
            KeyboardInterrupt: all was stopped while another thread than that was here.
        """
        output.parent.mkdir(parents=True, exist_ok=True)
        process = self._context.Process(
            target=_run, args=(self._main, command, str(output), self._num_threads, dict(environment))
        )
        process.start()
        self._begun.append(process)
        if self._stopped:
            process.kill()
            raise KeyboardInterrupt
        return process

    def start(self, folder: Path, command: list[str]) -> None:
        """Starts a command; what it prints goes to ``<folder>/output.txt``."""
        self._running[folder] = (command, self.begin(folder / OUTPUT_NAME, command))

    def wait_for_one(self) -> tuple[Path, list[str], int]:
        """A run that has ended: its folder, its command and its exit code."""
        ended = wait([process.sentinel for _, process in self._running.values()])[0]
        folder = next(folder for folder, (_, process) in self._running.items() if process.sentinel == ended)
        command, process = self._running.pop(folder)
        process.join()
        return folder, command, process.exitcode

    def stop(self) -> None:
        """Interrupts all that runs, and ends what does not end by itself."""
        self._stopped = True
        running = [process for process in self._begun if process.exitcode is None]
        for process in running:
            with suppress(ProcessLookupError):  # the server, whose child it is, has seen its end
                os.kill(process.pid, signal.SIGINT)
        for process in running:
            process.join(_GRACE_S)
            if process.exitcode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.join()


@contextmanager
def processes(num_threads: int, main: Callable[[list[str]], int]) -> Iterator[Processes]:
    """Processes that end when the block does."""
    # Libraries read these when they are loaded, which they are in the server.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(names, str(num_threads)))
    os.environ["PYTHONSAFEPATH"] = "1"  # from Python 3.11: the working directory may be a folder of data
    multiprocessing.set_forkserver_preload(["vissl_clusterfit.plugin.bootstrap", IMPORTS_AHEAD, __name__])
    started = Processes(num_threads, main)
    try:
        yield started
    finally:
        started.stop()


def _run(
    main: Callable[[list[str]], int], overrides: list[str], output: str, num_threads: int, environment: dict[str, str]
) -> None:
    """What a process runs; it is interrupted when the one that started it dies, as that no longer can."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until what it says of one goes to its log
    os.setsid()  # the terminal's Ctrl-C comes to it once, from there, and whatever it leaves can be ended
    os.environ.update(environment)
    terminal = os.dup(2)
    interrupt_after(lambda: wait([multiprocessing.parent_process().sentinel]))
    import torch

    torch.set_num_threads(num_threads)
    gc.freeze()  # VISSL collects after every epoch; what was imported is a third of a second each time
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = main(overrides)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # a full disk refuses what the run says of it, too
        if not (mistake := mendable(error)):
            raise
        os.write(terminal, f"error: {mistake}\n".encode())
        os._exit(USER_ERROR)  # Python's own end would write again
    if code != DONE:
        sys.exit(code)
