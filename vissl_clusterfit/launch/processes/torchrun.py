"""A run whose processes ``torchrun`` has started: it says in the environment how many there are and where they meet."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from vissl.utils.slurm import get_node_id

from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem

_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``torchrun`` has started this process. VISSL sets the first three variables itself."""
    return all(name in environment for name in _VARIABLES)


def is_first_of_run(node_id: int) -> bool:
    """Whether this process speaks for the whole run: that of node 0, under ``torchrun`` the one with rank 0."""
    return os.environ["RANK"] == "0" if is_torchrun() else get_node_id(node_id) == 0


def take_over() -> bool:
    """The same, once: commands that this process starts from now on are not taken for processes of ``torchrun``."""
    return is_torchrun() and bool(os.environ.pop("GROUP_RANK"))


def without_torchrun(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a command that is a separate run, not one of the processes of this."""
    ours = (*_VARIABLES, "GROUP_WORLD_SIZE")
    return {
        name: value for name, value in environment.items() if name not in ours and not name.startswith("TORCHELASTIC_")
    }


def record(error: BaseException) -> None:
    """Has ``torchrun`` repeat an error in its summary, which is the last thing that it prints."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        try:
            raise error  # the handler writes the traceback of the exception that is being handled
        except type(error):
            get_error_handler().record_exception(error)


@contextlib.contextmanager
def once_per_node() -> Iterator[None]:
    """What all processes of a node do alike is said by the first alone, and so is the user's mistake that all find."""
    if not is_torchrun():
        yield
        return
    first = os.environ["LOCAL_RANK"] == "0"
    try:
        with contextlib.ExitStack() as stack:
            if not first:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    except ClusterFitError as error:
        if first:
            record(error)
        else:
            time.sleep(5)  # torchrun ends this process as soon as the first has ended
        raise


def with_torchrun(overrides: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """The overrides of a command, completed by what ``torchrun`` says; as they are where it has not started this.

    Raises:
        ConfigError: an override contradicts ``torchrun``, or its nodes have different numbers of processes.
    """
    if not is_torchrun(environment):
        return list(overrides)
    rank, on_node = int(environment["RANK"]), int(environment["LOCAL_WORLD_SIZE"])
    world, node = int(environment["WORLD_SIZE"]), int(environment["GROUP_RANK"])
    num_nodes = int(environment.get("GROUP_WORLD_SIZE", world // on_node))
    if num_nodes * on_node != world or rank != node * on_node + int(environment["LOCAL_RANK"]):
        raise ConfigError(
            problem(
                "torchrun --nproc-per-node",
                found=f"{on_node} on node {node} of {num_nodes}, and {world} processes in all",
                allowed="the same number on every node",
            )
        )
    host = environment["MASTER_ADDR"]
    said = {
        "config.DISTRIBUTED.NUM_NODES": str(num_nodes),
        "config.DISTRIBUTED.NUM_PROC_PER_NODE": str(on_node),
        "config.DISTRIBUTED.INIT_METHOD": "tcp",
        "config.DISTRIBUTED.RUN_ID": f"{host}:{environment['MASTER_PORT']}",
        "node_id": str(node),
    }
    given = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    wrong = [
        problem(
            name,
            found=f"{given[name]}, and torchrun says {value}",
            allowed=value,
            remedy="Leave it out: torchrun has started the processes already.",
        )
        for name, value in said.items()
        if given.get(name, value) != value and not (name.endswith("RUN_ID") and given[name] == "auto")
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return [
        *(override for override in overrides if override.lstrip("+").split("=", 1)[0] not in said),
        *(f'{name}="{value}"' if name.endswith("RUN_ID") else f"{name}={value}" for name, value in said.items()),
    ]
