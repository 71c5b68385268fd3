"""Several clusterings of the same vectors, which are read once for all of them.

Each runs its own loop until it needs a pass over the vectors. When all that are still running need one, it is made for
all together, and vectors are read once for those that want the same share of them. Each sees the very chunks that it
sees alone, and has the very result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from vissl_clusterfit.clustering.protocol import ChunkTask, Fraction
from vissl_clusterfit.clustering.sources import ChunkedSource

Result = TypeVar("Result")


def share_passes(source: ChunkedSource, jobs: Sequence[Callable[[ChunkedSource], Result]]) -> list[Result]:
    """Runs computations over one source, whose passes they share.

    They run one at a time, in turns that are the same on every process: what they send to other processes of the run
    arrives in the same order.

    Args:
        source: the vectors.
        jobs: each is called with a source like it, and may use it until it returns.

    Returns:
        The result of each.

    Raises:
        Exception: the first that one raises; the others are ended.
    """
    if len(jobs) == 1:
        return [jobs[0](source)]
    _ = source.extent  # which may take a pass, and is the same for all
    turns = [_Turns(job, source) for job in jobs]
    try:
        waiting = turns
        while waiting:
            for one in waiting:
                one.go_on()
            waiting = [one for one in waiting if one.wanted is not None]
            if waiting:
                source.over_shares([one.wanted for one in waiting if one.wanted is not None])
    finally:
        for one in turns:
            one.end()
    return [one.result() for one in turns]


class _Ended(BaseException):
    """Unwinds a computation whose result is no longer needed."""


class _Turns(Generic[Result]):
    """A computation in a thread of its own, which runs only while it is waited for."""

    def __init__(self, job: Callable[[ChunkedSource], Result], source: ChunkedSource) -> None:
        #: The pass that it waits for, with the share; None when it has returned.
        self.wanted: tuple[ChunkTask, Fraction] | None = None
        self._job = job
        self._source = source.with_passes_by(self._want)
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._ended = False
        self._its_turn, self._my_turn = threading.Semaphore(0), threading.Semaphore(0)
        # Threads begin with PyTorch's defaults.
        num_threads = torch.get_num_threads()
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self._thread = threading.Thread(target=self._run, args=(num_threads, gpu), name="k-means", daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Lets it run until it wants a pass or returns; raises what it raises."""
        self._its_turn.release()
        self._my_turn.acquire()
        if self._error is not None:
            raise self._error

    def result(self) -> Result:
        """What it has returned."""
        return self._results[0]

    def end(self) -> None:
        """Ends it, wherever it is, and waits for that."""
        self._ended = True
        self._its_turn.release()
        self._thread.join()

    def _run(self, num_threads: int, gpu: int | None) -> None:
        self._its_turn.acquire()
        try:
            if not self._ended:
                torch.set_num_threads(num_threads)
                if gpu is not None:
                    torch.cuda.set_device(gpu)
                self._results.append(self._job(self._source))
        except _Ended:
            pass
        except BaseException as error:  # raised where it is waited for
            self._error = error
        self.wanted = None
        self._my_turn.release()

    def _want(self, work: ChunkTask, share: Fraction) -> None:
        self.wanted = work, share
        self._my_turn.release()
        self._its_turn.acquire()
        if self._ended:
            raise _Ended
