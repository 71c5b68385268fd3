"""The name ``clusterfit_tune`` among VISSL's engines, and what the user may look for when a tuning is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vissl.config import AttrDict
from vissl.engines.engine_registry import Engine

from vissl_clusterfit.report.results import RESULTS_NAME
from vissl_clusterfit.storage.paths import artifact_path

ENGINE = "clusterfit_tune"
#: Below ``config.CHECKPOINT.DIR``: what was tried and chosen, and the network that was scored.
VALIDATION_NAME = "validation.json"
NETWORK_NAME = "network.torch"


class TuneEngine(Engine):
    """Stands for the trainings that ``launch/runs/execute.py`` starts one after the other."""

    def run_engine(self, *_: Any, **__: Any) -> None:
        """Never called by our launcher, as a tuning has no engine process."""
        raise RuntimeError(f"{ENGINE} is started by vissl-clusterfit run.")

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The scores, what they were chosen by, and the network."""
        folder = artifact_path(checkpoint_folder)
        return {
            "scores": folder / RESULTS_NAME,
            "what was tried": folder / VALIDATION_NAME,
            "network": folder / "tune" / NETWORK_NAME,
        }
