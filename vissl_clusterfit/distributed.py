"""The few things that processes of one run say to each other; for one process each is the identity.

Whoever starts the processes initialises ``torch.distributed`` (VISSL's trainer, ``torchrun``); nothing here does.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from vissl_clusterfit.errors import ClusterFitError

T = TypeVar("T")

# Clustering on one process may take hours while the others wait; gloo's own limit is half an hour.
_PATIENCE = datetime.timedelta(days=14)


def is_distributed() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process among all of the run."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if is_distributed() else 1


def is_primary() -> bool:
    """Whether this is the process that does what must be done once."""
    return rank() == 0


@functools.lru_cache(maxsize=1)
def _waiting_group() -> Any:
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def barrier() -> None:
    """Waits until every process of the run is here, however long that takes."""
    if is_distributed():
        dist.barrier(group=_waiting_group())


def on_primary(work: Callable[[], T]) -> T:
    """Runs ``work`` on the primary process and gives its result (which must pickle) to all.

    Raises:
        ClusterFitError: what ``work`` raised, on every process, so that none waits for one that has stopped.
    """
    if not is_distributed():
        return work()
    outcome: list[tuple[bool, object]] = [(False, None)]
    if is_primary():
        try:
            outcome = [(True, work())]
        except ClusterFitError as error:
            outcome = [(False, error)]
    dist.broadcast_object_list(outcome, src=0, group=_waiting_group())
    done, result = outcome[0]
    if not done:
        assert isinstance(result, ClusterFitError), "only our own errors travel; others end the primary process"
        raise result
    return result  # type: ignore[return-value]


def add_up(values: torch.Tensor | np.ndarray) -> None:
    """Replaces numbers by their sum over all processes, in place.

    Those of a tensor on a card go from card to card where the processes have NCCL, and by way of their memory where
    not. NCCL does not wait for long: all processes are to have met before, as at the end of ``errors_shared``.
    """
    _reduce(values, dist.ReduceOp.SUM)


def take_largest(values: np.ndarray) -> None:
    """Replaces numbers by the largest of all processes, in place."""
    _reduce(values, dist.ReduceOp.MAX)


def take_smallest(values: np.ndarray) -> None:
    """Replaces numbers by the smallest of all processes, in place."""
    _reduce(values, dist.ReduceOp.MIN)


def gather(value: T) -> list[T]:
    """One value of each process (which must pickle), in the order of their ranks, on every process."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_waiting_group())
    return values


def gather_on_primary(value: T) -> list[T]:
    """One value of each process (which must pickle), in the order of their ranks, on the primary one alone."""
    if not is_distributed():
        return [value]
    values: list[Any] | None = [None] * world_size() if is_primary() else None
    dist.gather_object(value, values, dst=0, group=_waiting_group())
    return values or []


@contextlib.contextmanager
def errors_shared() -> Iterator[None]:
    """What one process raises in the block as the user's mistake is raised on all, so that none waits for it."""
    error = None
    try:
        yield
    except ClusterFitError as mine:
        error = mine
    for other in gather(error):
        if other is not None:
            raise other


def _reduce(values: torch.Tensor | np.ndarray, operation: Any) -> None:
    if is_distributed():
        tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
        if tensor.device.type == "cpu":
            dist.all_reduce(tensor, op=operation, group=_waiting_group())
        elif "cuda:nccl" in str(dist.get_backend_config()):  # from card to card
            dist.all_reduce(tensor, op=operation)
        else:
            here = tensor.cpu()
            dist.all_reduce(here, op=operation, group=_waiting_group())
            tensor.copy_(here)
