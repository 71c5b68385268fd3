"""Where else the rows of a training's ``metrics.jsonl`` go: the block ``config.CLUSTERFIT.LOGGERS``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import problem

WANDB, MLFLOW = "wandb", "mlflow"


@dataclass(frozen=True)
class LoggerSettings:
    """``LOGGERS``: Weights & Biases and MLflow, whose clients read the rest from their own environment variables."""

    #: Some of "wandb" and "mlflow".
    use: list = setting([])
    #: The project of Weights & Biases, and the experiment of MLflow.
    project: str = setting("vissl-clusterfit")
    #: The name of the run there; "" for that of its folder.
    name: str = setting("")

    def problems(self) -> Iterator[str]:
        """What is wrong with the block, a message each."""
        if not all(name in (WANDB, MLFLOW) for name in self.use) or len({*self.use}) < len(self.use):
            yield problem("config.CLUSTERFIT.LOGGERS.USE", found=self.use, allowed=f"some of [{WANDB}, {MLFLOW}]")
