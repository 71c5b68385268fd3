"""What a training has done: whether it is finished, or its last test phase is missing.

VISSL takes a training for finished as soon as its final checkpoint is there, which is written before the last test
phase. A run that ends in between would never give its last figures. Here the training is finished when the row of that
phase is in ``metrics.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from iopath.common.file_io import g_pathmgr
from vissl.config import AttrDict
from vissl.trainer.trainer_main import build_task

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.storage.paths import artifact_path

METRICS_NAME = "metrics.json"
_FINAL = re.compile(r"model_final_checkpoint_phase(\d+)\.torch")


def final_checkpoint(folder: str) -> str | None:
    """The path of the final checkpoint in the folder of a run; None if there is none."""
    found = [name for name in g_pathmgr.ls(folder) if _FINAL.fullmatch(name)]
    return f"{folder}/{max(found, key=_phase)}" if found else None


def _phase(name: str) -> int:
    return int(_FINAL.search(name)[1])


def interrupted_test(config: AttrDict, folder: str) -> str | None:
    """The final checkpoint, if the test phase that follows it was begun and not finished; else None.

    A run that resumes from it does that phase and nothing else.

    Raises:
        ConfigError: the checkpoint is that of a training of another length, or this is a test (``TEST_ONLY``).
    """
    final = final_checkpoint(folder)
    if final is None or config.CHECKPOINT.OVERWRITE_EXISTING:
        return None
    if config.TEST_ONLY:
        raise ConfigError(
            problem(
                "config.TEST_ONLY",
                found=f"true, and a finished training in {folder}",
                allowed="a folder of its own for a test",
                remedy=f"Set config.CHECKPOINT.DIR, and config.MODEL.WEIGHTS_INIT.PARAMS_FILE={final}.",
            )
        )
    phases = build_task(config)._build_phases()
    wanted, done = sum(phase["train"] for phase in phases), _phase(final) + 1
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
    return final if rows and not phases[-1]["train"] and rows[-1].get("phase_idx") == len(phases) - 2 else None


def read_metrics(folder: str) -> list[Mapping[str, Any]]:
    """A line for each phase that was finished, in the order of time."""
    path = artifact_path(folder, "config.CHECKPOINT.DIR") / METRICS_NAME
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # half a line: the disk was full
            continue
    return [row for row in rows if isinstance(row, Mapping)]
