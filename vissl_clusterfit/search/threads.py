"""Work on chunks, or on parts of one, at the same time: PyTorch's operations each on one thread.

PyTorch's own threads meet after every operation. Where a part takes dozens of short ones, that costs more than it
brings as soon as something else runs on the machine; and while its pool waits for work, faiss's is many times slower.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# mallopt(3), malloc.h: numbers of the parameters of glibc's allocator, and what they are set to.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 32 << 20
# So many threads do not wait long for each other when they allocate chunks.
_THREADS_PER_ARENA = 8


def parallel_map(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` of every item, in order, on as many threads as PyTorch has been given."""
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return [work(item) for item in items]
    with one_thread():
        return list(_pool(num_threads, os.getpid()).map(work, items))


def ordered_map(items: Iterable[Item], work: Callable[[Item], Callable[[], None]], num_threads: int) -> None:
    """``work`` of several items at the same time; what each gives is called in the order of the items, one at a time.

    Args:
        items: made one at a time, on whichever thread is free.
        work: called on threads where PyTorch's operations take one thread each.
        num_threads: how many threads.

    Raises:
        Exception: of the first item that fails; later ones have no turn.
    """
    keep_freed_memory()
    turns = _Turns(items, work)
    with one_thread(), ThreadPoolExecutor(num_threads, "clustering", torch.set_num_threads, (1,)) as pool:
        try:
            for thread in [pool.submit(turns.take_part) for _ in range(num_threads)]:
                thread.result()
        finally:
            turns.stop()  # where this thread was interrupted
    turns.raise_first_error()


class _Turns(Generic[Item]):
    """Items that several threads work on, and whose turn it is."""

    def __init__(self, items: Iterable[Item], work: Callable[[Item], Callable[[], None]]) -> None:
        self._items = enumerate(items)
        self._work = work
        self._pull = threading.Lock()
        self._turn = threading.Condition()
        self._next = 0
        self._errors: dict[int, BaseException] = {}
        self._stopped = False

    def take_part(self) -> None:
        """Works on items until there are no more."""
        number = -1
        try:
            while not self._stopped:
                with self._pull:
                    found = next(self._items, None)
                if found is None:
                    return
                number, item = found
                keep = self._work(item)
                with self._turn:
                    self._turn.wait_for(functools.partial(self._may_go_on, number))
                    if self._stopped:
                        return
                    keep()
                    self._next += 1
                    self._turn.notify_all()
        except BaseException as error:  # raised where it is waited for
            self._errors[number] = error
            self.stop()

    def _may_go_on(self, number: int) -> bool:
        return self._stopped or self._next == number

    def stop(self) -> None:
        """No more items, and no more turns."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def raise_first_error(self) -> None:
        """Raises the error of the first item that failed, if one did."""
        if self._errors:
            raise self._errors[min(self._errors)]


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep memory of a few MiB that is freed, for the next chunk, on whichever thread.

    Else every temporary of a chunk is given back to the system and its pages are cleared again for the next: a quarter
    of the time of a search. And each thread would keep what it freed for itself: a quarter of the memory of a
    clustering. Another allocator than glibc's has its own way.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, max(1, torch.get_num_threads() // _THREADS_PER_ARENA))


def give_back_memory() -> None:
    """Has glibc give back what it keeps of freed memory: after work of another kind, of which the next needs none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.lru_cache(maxsize=1)
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """The threads of this process; one that was forked from another has none of its."""
    keep_freed_memory()
    return ThreadPoolExecutor(
        num_threads, thread_name_prefix="clustering", initializer=torch.set_num_threads, initargs=(1,)
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's operations take one thread each, in this thread and in those that it starts."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
