"""Work in real processes, which tests kill: each is forked from a server that has imported what the core needs.

What runs in them must be importable by name, so it lies in this folder, too.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["vissl_clusterfit.clustering.fit", "vissl_clusterfit.features.extract", "vissl_clusterfit.labels.assign", "faiss"]
)

_LONGEST_S = 120


@contextmanager
def running(work: Callable, *args: object, **options: object) -> Iterator[BaseProcess]:
    """A process that does some work; it ends with the block, one way or the other."""
    process = context.Process(target=work, args=args, kwargs=options)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def exit_code(process: BaseProcess) -> int:
    """Waits for the end of a process; its exit code, negative where a signal ended it."""
    process.join(_LONGEST_S)
    assert process.exitcode is not None, "the process does not end"
    return process.exitcode


def outcome(work: Callable, *args: object, **options: object) -> int:
    """Does some work in a process of its own; its exit code."""
    with running(work, *args, **options) as process:
        return exit_code(process)


def kill_after(work: Callable, *args: object, delay_s: float, number: int = signal.SIGKILL, **options: object) -> int:
    """Ends a process some time after it has found work to do; its exit code."""
    begun = context.Event()
    with running(work, *args, begun=begun, **options) as process:
        while not begun.wait(0.01) and process.is_alive():
            pass
        process.join(delay_s)
        if process.is_alive():
            os.kill(process.pid, number)
        return exit_code(process)
