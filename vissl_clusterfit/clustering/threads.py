"""Work on parts of a chunk at the same time: one part per thread, each with PyTorch's operations on that thread alone.

PyTorch's own threads meet after every operation. Where a part takes dozens of short ones, that costs more than it
brings as soon as something else runs on the machine; and while its pool waits for work, faiss's is many times slower.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` of every item, in order, on as many threads as PyTorch has been given."""
    num_threads = torch.get_num_threads()
    with _one_thread():
        if num_threads == 1:
            return [work(item) for item in items]
        return list(_pool(num_threads, os.getpid()).map(work, items))


@functools.lru_cache(maxsize=1)
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """The threads of this process; one that was forked from another has none of its."""
    return ThreadPoolExecutor(
        num_threads, thread_name_prefix="clustering", initializer=torch.set_num_threads, initargs=(1,)
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
