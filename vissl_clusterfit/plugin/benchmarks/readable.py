"""VISSL's tests score the samples that could be read: the grey stand-ins of the others are left out, and counted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from classy_vision.meters import ClassyMeter

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ConfigError, problem

_NAME = "clusterfit_samples"
#: The key in a line of ``metrics.json``: not a score.
COUNTS = f"test_{_NAME}"


class SampleCounts(ClassyMeter):
    """How many samples a phase had, and how many of them could be read; it is the last of a task's meters."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.reset()

    @property
    def name(self) -> str:
        """The key in ``metrics.json`` after that of the phase."""
        return _NAME

    @property
    def value(self) -> dict[str, dict[str, int]]:
        """Both numbers, of all processes once they are synchronised, as VISSL's hooks take values: per output."""
        return {name: {"0": count} for name, count in zip(("readable", "samples"), self._counts.tolist(), strict=True)}

    def update(self, model_output: Any, target: torch.Tensor, **_: Any) -> None:
        """Counts a batch."""
        readable = _readable(self._task, target)
        self._counts += [len(target) if readable is None else int(readable.sum()), len(target)]

    def sync_state(self) -> None:
        """Adds up the numbers of all processes."""
        distributed.add_up(self._counts)

    def reset(self) -> None:
        """Starts a phase."""
        self._counts = np.zeros(2, dtype=np.int64)

    def validate(self, model_output_shape: Any, target_shape: Any) -> None:
        """Takes any batch."""

    def get_classy_state(self) -> dict[str, Any]:
        """Nothing: a phase that is interrupted starts again."""
        return {"name": _NAME}

    def set_classy_state(self, state: Mapping[str, Any]) -> None:
        """Nothing, likewise."""


def over_readable_samples(build_meters: Callable[[Any], list]) -> Callable[[Any], list]:
    """VISSL's method that builds the meters of a task: in test phases they get the samples that could be read."""

    @functools.wraps(build_meters)
    def build(task: Any) -> list:
        meters = build_meters(task)
        for meter in meters:
            meter.update = functools.partial(_update, task, meter.update)
        return [*meters, SampleCounts(task)] if meters else meters

    return build


def _update(task: Any, update: Callable[..., None], model_output: Any, target: torch.Tensor, **more: Any) -> None:
    readable = None if task.train else _readable(task, target)
    if readable is not None and not readable.all():
        if not readable.any():
            return
        several = isinstance(model_output, (list, tuple))
        model_output = [part[readable] for part in model_output] if several else model_output[readable]
        target = target[readable]
    try:
        update(model_output, target, **more)
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        heads = len(model_output) if isinstance(model_output, (list, tuple)) else 1
        found = f"meters that cannot count {heads} outputs for labels of shape {(*target.shape,)} ({said})"
        allowed = "num_meters as many as outputs, and topk_values at most as large as classes"
        raise ConfigError(problem("config.METERS", found=found, allowed=allowed)) from error


def _readable(task: Any, target: torch.Tensor) -> torch.Tensor | None:
    """Which samples of the batch at hand could be read, bool (B,); None where VISSL does not say it of each."""
    of_sources = task.last_batch.sample.get("data_valid")
    valid = of_sources[0] if isinstance(of_sources, list) and len(of_sources) == 1 else of_sources
    if not isinstance(valid, torch.Tensor) or valid.shape != target.shape[:1]:
        return None
    return valid.cpu() == 1


def describe_counts(line: Mapping[str, Any]) -> str:
    """For the protocol of a row: of how many samples it is, where some could not be read; "" where all could.

    Args:
        line: of ``metrics.json``, after a test phase.
    """
    counts = line.get(COUNTS)
    if not counts or counts["readable"] == counts["samples"]:
        return ""
    return f"{counts['readable']['0']} of {counts['samples']['0']} test samples, the others could not be read"
