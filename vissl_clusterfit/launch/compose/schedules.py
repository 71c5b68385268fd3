"""Schedules of learning rate and weight decay that do not fit the training, told before it starts."""

from __future__ import annotations

from typing import Any

from vissl_clusterfit.errors import ConfigError, problem


def require_schedules(optimizer: Any) -> None:
    """Builds the schedules as a training does, in whose processes their faults would end in a traceback.

    Args:
        optimizer: ``config.OPTIMIZER``, learning rates scaled.

    Raises:
        ConfigError: a schedule is not complete, or needs more epochs than there are.
    """
    from classy_vision.optim import build_optimizer_schedulers

    for name, schedule in optimizer["param_schedulers"].items():
        try:
            build_optimizer_schedulers({"num_epochs": optimizer["num_epochs"], "param_schedulers": {name: schedule}})
        except (AssertionError, KeyError, ValueError) as error:
            setting = f"config.OPTIMIZER.param_schedulers.{name}"
            raise ConfigError(
                problem(
                    setting,
                    found=f"{_described(schedule)}, for config.OPTIMIZER.num_epochs={optimizer['num_epochs']}",
                    allowed=f"a schedule that can be made for so many ({error})",
                    remedy=f"Fit its milestones and values to them, or take one that has none: {setting}.name=cosine",
                )
            ) from None


def _described(schedule: Any) -> str:
    if schedule["name"] == "composite":
        return " + ".join(map(_described, schedule["schedulers"])) or "composite of nothing"
    milestones = schedule.get("milestones") if schedule["name"] == "multistep" else None
    return f"{schedule['name']} with milestones {[*milestones]}" if milestones else schedule["name"]
