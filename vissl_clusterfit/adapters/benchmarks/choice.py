"""Which engine evaluates a benchmark config of VISSL's that no engine of VISSL's runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: VISSL runs these by scripts of their own; the paths are those of its configs, and nothing in them says so.
_ENGINES = (
    (r"benchmark/nearest_neighbor/[^/]+", "clusterfit_nearest_neighbor"),
    (r"benchmark/linear_image_classification/voc07/[^/]+_svm", "clusterfit_svm"),
    (r"benchmark/low_shot_transfer/.+_low_shot_svm", "clusterfit_low_shot_svm"),
    (r"benchmark/instance_retrieval/[^/]+", "clusterfit_retrieval"),
)


def choose_benchmark_engine(overrides: Sequence[str], composed: dict[str, Any]) -> list[str]:
    """Sets ``engine_name`` where the config is such a benchmark and the command line names no engine.

    Args:
        overrides: of the command line.
        composed: the whole composed config, changed in place.

    Returns:
        What was changed, for the log.
    """
    if any(override.lstrip("+").startswith("engine_name=") for override in overrides):
        return []
    configs = [override.removeprefix("config=") for override in overrides if override.startswith("config=")]
    for config in configs:
        for pattern, engine in _ENGINES:
            if re.fullmatch(pattern, config):
                before, composed["engine_name"] = composed["engine_name"], engine
                return [f"engine_name: {before!r} becomes {engine!r}, as {config} is no training."]
    return []
