"""The one way from a composed config to what runs: an engine in the processes of a run, or runs one after the other."""

from __future__ import annotations

from typing import Any

from vissl_clusterfit.launch.processes.launcher import launch
from vissl_clusterfit.launch.runs.tune.run import run_tuning
from vissl_clusterfit.plugin.engines.tune import ENGINE as TUNE


def start(engine: str, node_id: int, config: Any, *, apart: bool = False) -> None:
    """Runs an engine on this node; arguments and errors are those of ``launch.processes.launcher.launch``."""
    if engine == TUNE:
        run_tuning(config)
    else:
        launch(engine, node_id, config, apart=apart)
