"""Work that all processes of a run share, whose results one of them takes in order: in rounds of a few items each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from vissl_clusterfit import distributed
from vissl_clusterfit.search.threads import ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of each process in a round: so many that they hardly wait for each other, and that what is found stays small.
_ITEMS = 32


def in_rounds(
    items: Sequence[Item], find: Callable[[Item], Result], keep: Callable[[Result], None], num_threads: int
) -> None:
    """``find`` of every item, on all processes of the run; ``keep`` of every result, in order, on the primary one.

    All processes call it together, each with as many threads.

    Args:
        items: the same on all processes.
        find: called for several items at the same time; what it gives must pickle.
        keep: called for one at a time.
        num_threads: of this process.

    Raises:
        ClusterFitError: what one of the calls raises, on every process.
    """
    if not distributed.is_distributed():
        ordered_map(items, lambda item: functools.partial(keep, find(item)), num_threads)
        return
    rank, world_size = distributed.rank(), distributed.world_size()
    for low in range(0, len(items), _ITEMS * world_size):
        of_round = items[low : low + _ITEMS * world_size]
        # Neighbours, so that each reads its own part of the disk.
        own = of_round[len(of_round) * rank // world_size : len(of_round) * (rank + 1) // world_size]
        with distributed.errors_shared():
            found = _found(own, find, num_threads)
        with distributed.errors_shared():
            for of_process in distributed.gather_on_primary(found):
                for result in of_process:
                    keep(result)


def _found(items: Sequence[Item], find: Callable[[Item], Result], num_threads: int) -> list[Result]:
    results: list[Result] = []
    ordered_map(items, lambda item: functools.partial(results.append, find(item)), num_threads)
    return results
