"""Schedules of learning rate and weight decay that do not fit the training, told before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vissl_clusterfit.errors import ConfigError, problem

#: Where of a training, of 1, a schedule is looked at.
_PLACES = (0.0, 0.25, 0.5, 0.75, 0.999)
_ENDS = ("value", "start_value", "end_value", "base_value")


def require_schedules(optimizer: Any) -> None:
    """Builds the schedules as a training does, in whose processes their faults would end in a traceback.

    Args:
        optimizer: ``config.OPTIMIZER``, learning rates scaled.

    Raises:
        ConfigError: a schedule is not complete, or needs more epochs than there are.
    """
    from classy_vision.optim import build_optimizer_schedulers

    for name, schedule in optimizer["param_schedulers"].items():
        setting = f"config.OPTIMIZER.param_schedulers.{name}"
        try:
            blocks = {"num_epochs": optimizer["num_epochs"], "param_schedulers": {name: schedule}}
            built = build_optimizer_schedulers(blocks)
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                problem(
                    setting,
                    found=f"{_described(schedule)}, for config.OPTIMIZER.num_epochs={optimizer['num_epochs']}",
                    allowed=f"a schedule that can be made for so many ({error})",
                    remedy=f"Fit its milestones and values to them, or take one that has none: {setting}.name=cosine",
                )
            ) from None
        for part in built.values():
            _require_numbers(part, schedule, setting)


def _require_numbers(schedule: Callable[[float], Any], block: Any, setting: str) -> None:
    """Asks a schedule for some of its values, which it computes of what the config gives it."""
    for place in _PLACES:
        try:
            value = schedule(place)
            is_number = 0 <= value < math.inf
        except TypeError:
            value, is_number = "no number", False
        if not is_number:
            values = [f"{key}={block[key]!r}" for key in _ENDS if key in block]
            found = f"{' '.join([_described(block), *values])}, which is {value} at {place:.0%} of the training"
            raise ConfigError(problem(setting, found=found, allowed="a schedule of numbers of at least 0"))


def _described(schedule: Any) -> str:
    if schedule["name"] == "composite":
        return " + ".join(map(_described, schedule["schedulers"])) or "composite of nothing"
    milestones = schedule.get("milestones") if schedule["name"] == "multistep" else None
    return f"{schedule['name']} with milestones {[*milestones]}" if milestones else schedule["name"]
