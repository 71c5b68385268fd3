"""What a training has done: whether it is finished, or its last test phase is missing.

VISSL takes a training for finished as soon as its final checkpoint is there, which is written before the last test
phase. A run that ends in between would never give its last scores. Here the training is finished when the row of that
phase is in ``metrics.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vissl.config import AttrDict
from vissl.trainer.trainer_main import build_task
from vissl.utils.checkpoint import get_checkpoint_folder

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.training.checkpoints import final_checkpoint, final_phase, has_checkpoints
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.untrusted import UnsafeFileError, json_in

METRICS_NAME = "metrics.json"


def run_folder(config: AttrDict) -> str:
    """The folder of a run, ``CHECKPOINT.DIR``, which is made.

    Raises:
        ConfigError: it cannot be, as below a file or where nothing may be written.
    """
    try:
        return get_checkpoint_folder(config)
    except (OSError, AssertionError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be made"
        found = f"{config.CHECKPOINT.DIR} ({reason})"
        allowed = "a folder, or the path of one that can be made"
        raise ConfigError(problem("config.CHECKPOINT.DIR", found=found, allowed=allowed)) from None


def finished_checkpoint(config: AttrDict, folder: str) -> tuple[str | None, bool]:
    """The final checkpoint of the training in a folder, if it is there and is to stay; whether a last test is missing.

    A run that resumes from a final checkpoint does the last test phase and nothing else.

    Raises:
        ConfigError: the checkpoint is that of a training of another length, or this is a test (``TEST_ONLY``).
    """
    if config.CHECKPOINT.OVERWRITE_EXISTING:
        return None, False
    if config.TEST_ONLY:
        _require_no_training(folder)
        return None, False
    final = final_checkpoint(folder)
    if final is None:
        return None, False
    phases = build_task(config)._build_phases()
    wanted, done = sum(phase["train"] for phase in phases), final_phase(final) + 1
    if done != wanted:
        raise ConfigError(
            problem(
                "config.OPTIMIZER.num_epochs",
                found=f"{wanted} training phases, and a finished training of {done} in {folder}",
                allowed=f"{done} in this folder",
                remedy="Name another config.CHECKPOINT.DIR, or set config.CHECKPOINT.OVERWRITE_EXISTING=true.",
            )
        )
    rows = read_metrics(folder)
    # The row of the last training phase is written before the checkpoint, that of the test phase when it is done.
    return final, bool(rows) and not phases[-1]["train"] and rows[-1].get("phase_idx") == len(phases) - 2


def _require_no_training(folder: str) -> None:
    if has_checkpoints(artifact_path(folder, "config.CHECKPOINT.DIR")):
        final = final_checkpoint(folder)
        weights = f", and config.MODEL.WEIGHTS_INIT.PARAMS_FILE={final}" if final else ""
        raise ConfigError(
            problem(
                "config.TEST_ONLY",
                found=f"true, and a{' finished' if final else ''} training in {folder}",
                allowed="a folder of its own for a test",
                remedy=f"Set config.CHECKPOINT.DIR{weights}.",
            )
        )


def read_metrics(folder: str) -> list[Mapping[str, Any]]:
    """A line for each phase that was finished, in the order of time."""
    return [row for _, row in _metrics(folder) if row is not None]


def _metrics(folder: str) -> list[tuple[bytes, Mapping[str, Any] | None]]:
    """Each line of the file, and what it says; None of half a line, as the disk was full, and of damaged ones."""
    path = artifact_path(folder, "config.CHECKPOINT.DIR") / METRICS_NAME
    rows: list[tuple[bytes, Mapping[str, Any] | None]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            row = json_in(line)
        except UnsafeFileError:
            row = None
        rows.append((line, row if isinstance(row, Mapping) and isinstance(row.get("phase_idx", 0), int) else None))
    return rows


def forget_phases_after(folder: str, phase: int) -> None:
    """Takes the lines of later phases out of ``metrics.json``, as a training that resumes does them again."""
    rows = _metrics(folder)
    stay = [line for line, row in rows if row is not None and row.get("phase_idx", phase) <= phase]
    if len(stay) < len(rows):
        content = b"".join(line + b"\n" for line in stay)
        path = artifact_path(folder, "config.CHECKPOINT.DIR") / METRICS_NAME
        write_file(path, lambda file: file.write(content))
