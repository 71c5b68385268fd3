"""Chunks of vectors: joined, read ahead, and what is found of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from vissl_clusterfit.clustering.protocol import ChunkTask

T = TypeVar("T")


def found_by(work: ChunkTask, rows: Any) -> Any:
    """What a work finds of vectors (n, D), as arrays unless it is to stay on the card that they are on."""
    found = work.compute(rows)
    return found if work.card is None or work.stays else tree_map_only(torch.Tensor, lambda it: it.cpu().numpy(), found)


def joined(chunks: Iterable[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """Chunks, as many at a time as have ``most`` vectors in all; one at least."""
    waiting: list[np.ndarray] = []
    for positions in chunks:
        if waiting and sum(map(len, waiting)) + len(positions) > most:
            yield waiting
            waiting = []
        waiting.append(positions)
    if waiting:
        yield waiting


def are_neighbours(numbers: np.ndarray) -> bool:
    """Whether numbers (n,), ascending, follow one another."""
    return len(numbers) > 0 and int(numbers[-1] - numbers[0]) + 1 == len(numbers)


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same, each made while the one before it is being worked on."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as reader:
        coming = reader.submit(next, iterator, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, iterator, None)
            yield item
