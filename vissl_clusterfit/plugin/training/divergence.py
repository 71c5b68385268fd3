"""The end of a training whose loss or output is no longer a number."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from vissl_clusterfit.errors import ConfigError, problem

#: What is said of a training that has diverged, and of no other.
DIVERGED = "which is NaN or infinite"


def _end(task: Any, what: str) -> NoReturn:
    raise ConfigError(
        problem(
            "config.OPTIMIZER.param_schedulers.lr",
            found=f"{what} at iteration {task.iteration} (epoch {task.train_phase_idx + 1}), {DIVERGED}",
            allowed="rates with which loss and output stay finite",
            remedy="Lower the learning rate or lengthen its warm-up; if it is low already, look for samples or weights "
            "that are not finite. config.HOOKS.CHECK_NAN=false has VISSL save such a state, and go on.",
        )
    )


def end_at_output(_hook: Any, task: Any) -> None:
    """``CheckNanModelOutputHook.on_forward``, whose own calls a method that it does not have."""
    output = task.last_batch.model_output
    outputs = output if isinstance(output, list) else [output]
    if not all(map(_all_finite, outputs)):
        _end(task, "an output of the network")


def end_at_loss(_hook: Any, task: Any) -> None:
    """``CheckNanLossHook.on_loss_and_meter``, as a message; by the loss that VISSL's step has waited for already."""
    if not (math.isfinite(task.losses[-1]) if task.losses else _all_finite(task.last_batch.loss)):
        _end(task, "a loss")


def _all_finite(values: torch.Tensor) -> bool:
    """By their sum, which has what one of them has; of a sum that is too large each is looked at."""
    return math.isfinite(values.detach().sum().item()) or bool(torch.isfinite(values).all())


def kept_unless_checked(on_forward: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Wraps ``LogLossMetricsCheckpointHook.on_forward``, which makes a state that is no number the latest checkpoint.

    With ``HOOKS.CHECK_NAN`` the run ends instead, and resumes from the checkpoint before it.
    """

    @functools.wraps(on_forward)
    def keep(hook: Any, task: Any) -> None:
        if not task.config["HOOKS"]["CHECK_NAN"]:
            on_forward(hook, task)

    return keep
