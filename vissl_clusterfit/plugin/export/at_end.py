"""The export that a training leaves in its folder when it has finished."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, ClusterFitError, refusal_of_disk
from vissl_clusterfit.plugin.export.export import write_export
from vissl_clusterfit.plugin.export.trained import open_trained
from vissl_clusterfit.plugin.training.checkpoints import final_checkpoint
from vissl_clusterfit.plugin.training.record import CARD_NAME, EXPORT_NAME
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import temporary_path
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote


def export_at_end(config: AttrDict, folder: str) -> str:
    """Leaves the trunk of a finished training in ``<CHECKPOINT.DIR>/export``, unless it is there.

    A benchmark's training leaves none, nor one with ``CLUSTERFIT.EXPORT=false``. Whatever stands in the way is said and
    ends nothing: the training is finished, and ``export_model`` can be called later. Only a disk that is full or
    read-only ends the run: started again, it makes the export.

    Args:
        config: of the training.
        folder: ``CHECKPOINT.DIR``.

    Returns:
        What the user should know; "" where there is nothing to say.
    """
    is_wanted = ClusterFitConfig.from_config(config).export
    is_benchmark = config.get("BENCHMARK") is not None or config.MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON
    place, checkpoint = artifact_path(folder, "config.CHECKPOINT.DIR"), final_checkpoint(folder)
    if not is_wanted or is_benchmark or config.TEST_ONLY or checkpoint is None:
        return ""
    if as_remote(place):
        return f"No export beside the checkpoint: {folder} is not of this machine. Copy it, and export it there."
    try:
        _make(place / EXPORT_NAME, Path(checkpoint))
    except Exception as error:  # what has been trained is whole
        if refusal_of_disk(error):
            raise
        if isinstance(error, ClusterFitError):
            return f"No export beside the checkpoint: {error}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"No export beside the checkpoint: {type(error).__name__}: {reason}"
    return ""


def _make(goal: Path, checkpoint: Path) -> None:
    if not goal.exists():
        _export(checkpoint, goal)
        return
    made_from = artifacts.read_json(goal / CARD_NAME).get("made_from") if (goal / CARD_NAME).is_file() else None
    if not isinstance(made_from, dict):
        raise ArtifactError(f"{goal} holds something else. Move it away, and start again.")
    if made_from.get("checkpoint", {}).get("sha256") == artifacts.file_sha256(checkpoint.resolve()):
        return
    # Of an earlier training in this folder, which is written over.
    fresh, old = temporary_path(goal), temporary_path(goal)
    _export(checkpoint, fresh)
    os.replace(goal, old)
    os.replace(fresh, goal)
    shutil.rmtree(old, ignore_errors=True)


def _export(checkpoint: Path, goal: Path) -> None:
    write_export(open_trained(checkpoint, head=False, is_own=True), goal, form="auto", head=False, onnx=False)
