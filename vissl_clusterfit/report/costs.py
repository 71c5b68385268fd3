"""``costs.json``: what each stage of a run has taken of its machines, beside the scores of ``results.json``."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts

COSTS_NAME = "costs.json"
_FORMAT = 1
_STAGES = ("extract", "cluster", "label", "train", "benchmark")
_HOUR_S = 3600


def core_seconds() -> float:
    """The processor time of this process and of those that it has started, so far."""
    times = os.times()
    living = sum(_of_process(child.pid) for child in multiprocessing.active_children())
    return times.user + times.system + times.children_user + times.children_system + living


def _of_process(pid: int | None) -> float:
    """The processor time of a process that has not ended; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def add_costs(folder: Path, stage: str, *, seconds: float, of_cores: float, gpus: int) -> None:
    """Adds what a stage took to ``folder/costs.json``; one process of a run calls this.

    Args:
        folder: ``CHECKPOINT.DIR``.
        stage: extract, cluster, label, train or benchmark.
        seconds: from its beginning to its end.
        of_cores: processor seconds of all its processes.
        gpus: that it held while it lasted.

    Raises:
        ArtifactError: the file that is there is damaged, or cannot be written.
    """
    stages = read_costs(folder)
    taken = stages.get(stage, {})
    more = {"hours": seconds, "core_hours": of_cores, "gpu_hours": gpus * seconds}
    stages[stage] = {name: round(taken.get(name, 0) + value / _HOUR_S, 6) for name, value in more.items()}
    artifacts.write_json(folder / COSTS_NAME, {"format": _FORMAT, "stages": stages})


def read_costs(folder: Path) -> dict[str, dict[str, float]]:
    """``hours``, ``core_hours`` and ``gpu_hours`` of each stage; empty where nothing was counted.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / COSTS_NAME
    if not path.is_file():
        return {}
    stages = artifacts.read_json(path, "stages")["stages"]
    if not isinstance(stages, dict) or not all(map(_are_hours, stages.values())):
        raise ArtifactError(f"{path} is damaged: it does not give the hours of each stage. Move it away.")
    return stages


def _are_hours(taken: object) -> bool:
    return isinstance(taken, dict) and all(
        isinstance(hours, (int, float)) and not isinstance(hours, bool) for hours in taken.values()
    )


def costs_said(folder: Path) -> str:
    """What a run has taken so far, as a sentence for people; why it is not known; "" where nothing was counted."""
    try:
        stages = read_costs(folder)
    except ArtifactError as error:
        return f"What this run took is not known: {error}"
    return f"Taken so far: {describe_costs(stages)} ({folder}/{COSTS_NAME})." if stages else ""


def describe_costs(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """For people: ``extract 0.52, train 3.1 GPU hours``, or core hours where no GPU was held."""
    by_gpu = any(stage.get("gpu_hours") for stage in stages.values())
    name, unit = ("gpu_hours", "GPU hours") if by_gpu else ("core_hours", "core hours")
    known = {stage: stages[stage] for stage in _STAGES if stage in stages}
    return ", ".join(f"{stage} {taken.get(name, 0):.2g}" for stage, taken in known.items()) + f" {unit}"
