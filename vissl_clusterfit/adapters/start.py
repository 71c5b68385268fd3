"""The one way from a composed config to what runs: an engine in the processes of a run, or runs one after the other."""

from __future__ import annotations

from typing import Any

from vissl_clusterfit.adapters.ranks import launch
from vissl_clusterfit.adapters.tune.engine import ENGINE as TUNE
from vissl_clusterfit.adapters.tune.run import run_tuning


def start(engine: str, node_id: int, config: Any, *, apart: bool = False) -> None:
    """Runs an engine on this node; see :func:`vissl_clusterfit.adapters.ranks.launch` for arguments and errors."""
    if engine == TUNE:
        run_tuning(config)
    else:
        launch(engine, node_id, config, apart=apart)
