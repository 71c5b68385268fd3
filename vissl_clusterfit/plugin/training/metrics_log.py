"""``metrics.jsonl``: how a training went, a JSON object in each line, whole after any kill.

A row of a step has ``epoch`` (from 1), ``iteration`` (of the training, from 0), ``phase`` (VISSL's, from 0), ``loss``,
``lr`` (the greatest, where groups of parameters have several), ``images/s`` (of all processes), ``waiting`` (the share
of the time in which the first process had no data), ``seconds_left``, ``memory_mb`` on a GPU, and ``time`` (since 1970,
in seconds). A row of a phase that has ended has ``split`` and the scores of its meters, in percent, instead.
"""

from __future__ import annotations

import copy
import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ArtifactError, cannot_write
from vissl_clusterfit.plugin.log_bridge import without_secrets
from vissl_clusterfit.plugin.training.base_hook import Hook
from vissl_clusterfit.plugin.training.loggers import Client, begin_clients, logger_settings
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.untrusted import UnsafeFileError, json_in

logger = logging.getLogger(__name__)

METRICS_LOG_NAME = "metrics.jsonl"

Row = dict[str, Any]


def step_row(**values: Any) -> Row:
    """A row, without what is None; a loss that is no number is null, as JSON has no other word for it."""
    return {name: _as_json(value) for name, value in values.items() if value is not None}


def score_row(task: Any, split: str) -> Row:
    """The scores of the phase that a task of VISSL's has just ended; without its meters' lists, as of each class."""
    row: Row = {"epoch": task.train_phase_idx + 1, "iteration": task.iteration, "phase": task.phase_idx, "split": split}
    if split == "test" or task.config["METERS"]["enable_training_meter"]:
        for meter in task.meters:
            row |= {f"{split}/{name}": _as_json(value) for name, value in _numbers(meter.value)}
    return row


def _numbers(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, Real):
            yield f"{before}{name}", float(value)


def _as_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows_of(content: bytes) -> list[Row]:
    """The rows of a file; what is none, as half a line of a process that was killed, is left out."""
    rows = []
    for line in content.splitlines():
        try:
            row = json_in(line)
        except UnsafeFileError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class MetricsLog:
    """The file of one training. A disk that refuses a row is reported once, and ends nothing.

    Args:
        folder: ``CHECKPOINT.DIR``.
        is_done: of a row of an earlier start, whether this one will not make it again.
    """

    def __init__(self, folder: Path, is_done: Callable[[Row], bool]) -> None:
        self._path = folder / METRICS_LOG_NAME
        self._is_remote, self._is_told = as_remote(folder) is not None, False
        rows = rows_of(self._path.read_bytes()) if self._path.is_file() else []
        #: All of the file elsewhere, where nothing can be appended; here, what is in it that is whole.
        self._content = b"".join(_line(row) for row in rows if is_done(row))
        self._size = len(self._content)
        if rows:
            self._told(lambda: write_file(self._path, lambda file: file.write(self._content)))

    def add(self, row: Row) -> None:
        """Appends a row. On another file system rows are written at the end of their phase."""
        line = _line(row)
        if not self._is_remote:
            self._told(lambda: self._append(line))
            return
        self._content += line
        if "split" in row:
            self._told(lambda: write_file(self._path, lambda file: file.write(self._content)))

    def _append(self, line: bytes) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                size = min(file.tell(), self._size)
                file.truncate(size)  # without half a line that a full disk has left
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._size = size + len(line)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _told(self, write: Callable[[], object]) -> None:
        try:
            write()
        except ArtifactError as error:
            if not self._is_told:
                self._is_told = True
                logger.warning("%s lacks rows: %s", METRICS_LOG_NAME, error)


def _line(row: Row) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def done_before(checkpoint: Mapping[str, Any] | None) -> Callable[[Row], bool]:
    """Whether a row stays, by the checkpoint that a training resumes from; none does where there is no checkpoint.

    A checkpoint in the middle of a phase names the one before it, and how many iterations were done in all.
    """
    if checkpoint is None:
        return lambda _: False
    phase, iteration = checkpoint["phase_idx"], checkpoint["iteration"]

    def is_done(row: Row) -> bool:
        place, step = row.get("phase"), row.get("iteration")
        if not isinstance(place, int) or not isinstance(step, int):
            return False
        return place <= phase or ("split" not in row and step < iteration)

    return is_done


class MetricsHook(Hook):
    """Takes the rows of a training: into the file, and where ``CLUSTERFIT.LOGGERS`` says.

    It comes before the hook that writes checkpoints, so that none is there whose rows are not.

    Args:
        cfg: VISSL's ``config``, before the network is built.
    """

    def __init__(self, cfg: AttrDict) -> None:
        super().__init__()
        self._cfg = copy.deepcopy(cfg)
        self._log: MetricsLog | None = None
        self._clients: list[Client] = []

    def on_start(self, task: Any) -> None:
        """Begins the file, or takes from it what a training that resumes does again; begins the runs of the clients.

        Raises:
            ClusterFitError: a client cannot begin.
        """
        if distributed.is_primary():
            folder = artifact_path(task.checkpoint_folder)
            self._log = MetricsLog(folder, done_before(task.checkpoint))
            self._clients = begin_clients(self._cfg, logger_settings(self._cfg), folder)

    def on_phase_end(self, task: Any) -> None:
        """Adds the scores."""
        self.add(score_row(task, "train" if task.train else "test"))

    def add(self, row: Row) -> None:
        """Adds a row. A client that fails is left out from then on; the training goes on."""
        if self._log is not None:
            self._log.add(row)
        for client in [*self._clients]:
            self._tried(client, lambda client=client: client.add(row))

    def on_end(self, task: Any) -> None:
        """Ends the runs of the clients."""
        self._end(failed=False)

    def on_exception(self, task: Any) -> None:
        """Ends them as failed."""
        self._end(failed=True)

    def _end(self, *, failed: bool) -> None:
        for client in [*self._clients]:
            self._tried(client, lambda client=client: client.end(failed))
        self._clients.clear()

    def _tried(self, client: Client, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._clients.remove(client)
            logger.warning("A logger gets no more rows: %s", without_secrets(str(error)))
