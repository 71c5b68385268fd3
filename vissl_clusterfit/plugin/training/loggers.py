"""``CLUSTERFIT.LOGGERS``: the rows of ``metrics.jsonl`` in Weights & Biases and MLflow, by their own clients.

Where a server is, who one is there and whether one is offline, the clients read from the environment (``WANDB_MODE``,
``MLFLOW_TRACKING_URI``). Which run there is that of a training is in ``loggers.json`` beside the checkpoints, so that a
training that resumes goes on in it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import part_for_any_training
from vissl_clusterfit.config.loggers import MLFLOW, WANDB, LoggerSettings
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ConfigError, MissingDependencyError, problem
from vissl_clusterfit.plugin.log_bridge import without_secrets
from vissl_clusterfit.storage import artifacts

logger = logging.getLogger(__name__)

LOGGERS_NAME = "loggers.json"
_SETTING = "config.CLUSTERFIT.LOGGERS"
#: What MLflow takes of a parameter, and in one call.
_LONGEST, _MOST = 500, 100


class Client(Protocol):
    """One run of a training on one server."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Sends a row."""

    def end(self, failed: bool) -> None:
        """Says that the training has ended."""


def logger_settings(config: AttrDict) -> LoggerSettings:
    """``config.CLUSTERFIT.LOGGERS``; of a config without that block, what asks for nothing.

    Raises:
        ConfigError: a value is none that it may have.
        MissingDependencyError: a client is not installed, or TensorBoard where VISSL's hook is to write for it.
    """
    settings = read_settings(LoggerSettings, part_for_any_training(config, "LOGGERS") or {}, _SETTING)
    if problems := list(settings.problems()):
        raise ConfigError("\n".join(problems))
    require_all = [*settings.use, *(["tensorboard"] if config.HOOKS.TENSORBOARD_SETUP.USE_TENSORBOARD else [])]
    if require_all:
        require(*require_all)
    return settings


def begin_clients(config: AttrDict, settings: LoggerSettings, folder: Path) -> list[Client]:
    """The runs of a training, those of an earlier start where there was one.

    Args:
        config: VISSL's ``config``; what looks like a secret in it is not sent.
        settings: its block LOGGERS.
        folder: ``CHECKPOINT.DIR``.

    Raises:
        ConfigError: a client refuses, as it knows no key.
    """
    if not settings.use:
        return []
    path = folder / LOGGERS_NAME
    known = artifacts.read_json(path) if path.is_file() else {}
    clients: list[Client] = []
    for name in settings.use:
        try:
            client: Any = _KINDS[name](settings, folder, known.get(name), dict(_flat(config)))
        except MissingDependencyError:
            raise
        except Exception as error:
            raise ConfigError(
                problem(
                    f"{_SETTING}.USE",
                    found=f"{name}, whose client refuses: {without_secrets(str(error)).splitlines()[0]}",
                    allowed="a client that can begin a run",
                    remedy="Set what it needs in the environment (docs/loggers.md), or leave it out.",
                )
            ) from None
        known[name] = client.run
        clients.append(client)
    artifacts.write_json(path, known)
    return clients


class _Wandb:
    """A run of Weights & Biases. Its axis is ``iteration``, as its own steps may not go back."""

    def __init__(self, settings: LoggerSettings, folder: Path, run: str | None, config: dict[str, Any]) -> None:
        import wandb

        self.run = run or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=settings.project,
            name=settings.name or folder.name,
            id=self.run,
            resume="allow",
            dir=str(folder),
            config=config,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        place = self._run.dir if self._run.offline else self._run.url
        logger.info("Weights & Biases has this training: %s", place)

    def add(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def end(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _Mlflow:
    """A run of MLflow."""

    def __init__(self, settings: LoggerSettings, folder: Path, run: str | None, config: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient()
        self.run = ""
        if run:
            try:
                self._client.update_run(run, status="RUNNING")
                self.run = run
            except MlflowException:
                logger.warning("MLflow has no run %s here: this training begins another.", run)
        if not self.run:
            found = self._client.get_experiment_by_name(settings.project)
            experiment = found.experiment_id if found else self._client.create_experiment(settings.project)
            self.run = self._client.create_run(experiment, run_name=settings.name or folder.name).info.run_id
            params = [Param(name, str(value)[:_LONGEST]) for name, value in config.items()]
            for start in range(0, len(params), _MOST):
                self._client.log_batch(self.run, params=params[start : start + _MOST])
        logger.info("MLflow has this training as run %s of the experiment %s.", self.run, settings.project)

    def add(self, row: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), row["iteration"]
        values = {name: value for name, value in row.items() if name != "time" and isinstance(value, (int, float))}
        self._client.log_batch(self.run, [Metric(name, value, now, step) for name, value in values.items()])

    def end(self, failed: bool) -> None:
        self._client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


_KINDS: dict[str, Callable[..., Client]] = {WANDB: _Wandb, MLFLOW: _Mlflow}


def _flat(block: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a config by their full names, texts without secrets."""
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif value is None or isinstance(value, (bool, int, float)):
            yield f"{before}{name}", value
        else:
            yield f"{before}{name}", without_secrets(str(value))
