"""Which configs are benchmarks, and which engine evaluates those of VISSL's that no engine of VISSL's runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: VISSL runs these by separate scripts; the paths are those of its configs, and nothing in them says so.
_ENGINES = (
    (r"benchmark/nearest_neighbor/[^/]+", "clusterfit_nearest_neighbor"),
    (r"benchmark/linear_image_classification/voc07/[^/]+_svm", "clusterfit_svm"),
    (r"benchmark/low_shot_transfer/.+_low_shot_svm", "clusterfit_low_shot_svm"),
    (r"benchmark/instance_retrieval/[^/]+", "clusterfit_retrieval"),
)


def choose_benchmark_engine(overrides: Sequence[str], composed: dict[str, Any]) -> list[str]:
    """Marks a benchmark by a block ``config.BENCHMARK``; sets ``engine_name`` where VISSL has none for it.

    An engine on the command line stays.

    Args:
        overrides: of the command line.
        composed: the whole composed config, changed in place.

    Returns:
        What was changed, for the log.
    """
    configs = [override.removeprefix("config=") for override in overrides if override.startswith("config=")]
    if any(config.startswith("benchmark/") for config in configs):
        composed["config"].setdefault("BENCHMARK", {})
    if any(override.lstrip("+").startswith("engine_name=") for override in overrides):
        return []
    for config in configs:
        for pattern, engine in _ENGINES:
            if re.fullmatch(pattern, config):
                before, composed["engine_name"] = composed["engine_name"], engine
                return [f"engine_name: {before!r} becomes {engine!r}, as {config} is no training."]
    return []
