"""How a training begins: it has its folder to itself, what is there is its own, and it resumes from a whole file."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from vissl_clusterfit.config.compute import ComputeSettings
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.plugin.stages import Stages
from vissl_clusterfit.plugin.training.checkpoints import checkpoint_to_resume, phase_of
from vissl_clusterfit.plugin.training.compute import compute_settings
from vissl_clusterfit.plugin.training.loggers import logger_settings
from vissl_clusterfit.plugin.training.progress import finished_checkpoint, forget_phases_after
from vissl_clusterfit.plugin.training.record import (
    RECORD_NAME,
    check_record,
    has_products,
    set_aside,
    training_inputs,
    write_record,
)
from vissl_clusterfit.storage.atomic import remove_leftovers
from vissl_clusterfit.storage.leases import Lease
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote

LEASE_NAME = "training.lease"
_LOOK_AGAIN_S = 1.0


def begin_training(config: Any, folder: str, hold: contextlib.ExitStack) -> tuple[bool, str | None]:
    """Whether the training of a folder is finished, and the checkpoint that it resumes from; one process of a run asks.

    Args:
        config: VISSL's ``config``.
        folder: ``CHECKPOINT.DIR``.
        hold: keeps other trainings out of the folder until it is closed. Where there is one, this waits for its end.

    Raises:
        ClusterFitError: the folder has a training of other data or settings, or what the training needs is missing.
    """
    place = artifact_path(folder, "config.CHECKPOINT.DIR")
    logger_settings(config)
    inputs, compute = training_inputs(config), compute_settings(config)
    lease = Lease(place / LEASE_NAME)
    waits = False
    while True:
        if _is_finished(config, folder, inputs, compute):
            # Of a process that was killed when it had just ended the training.
            lease.remove_abandoned()
            remove_leftovers(place)
            return True, None
        if lease.acquire():
            break
        if not waits:
            holder = lease.holder()
            _say(
                f"Process {holder.get('pid')} on {holder.get('host')} trains in {folder}: waiting for its end. Name "
                "another config.CHECKPOINT.DIR for a separate training."
            )
            waits = True
        time.sleep(_LOOK_AGAIN_S)
    hold.callback(lease.release)
    if _is_finished(config, folder, inputs, compute):  # meanwhile
        return True, None
    final, _ = finished_checkpoint(config, folder)
    remove_leftovers(place)
    checkpoint = final or checkpoint_to_resume(config, folder, _say)
    starts_over = config.CHECKPOINT.OVERWRITE_EXISTING and checkpoint is None  # nothing of what is there is used
    try:
        is_known = check_record(config, folder, inputs, compute)
    except ArtifactError:
        if not starts_over:
            raise
        is_known = False
    if not is_known and has_products(place):
        if not starts_over:
            _say(f"{place} has no {RECORD_NAME}, which says what its training was made from: this run resumes it.")
        elif not as_remote(place):
            _say(f"What an earlier training left in {place} was moved to {set_aside(place).name}.")
    write_record(config, folder, inputs, resumes=is_known)
    phase = phase_of(checkpoint) if checkpoint else -1
    if phase is not None and not as_remote(place) and not config.TEST_ONLY:
        forget_phases_after(folder, phase)
    return False, checkpoint


def is_done(config: Any, folder: str) -> bool:
    """Whether the training of a folder has finished, and it is that of this config; neither waits nor makes anything.

    Raises:
        ClusterFitError: a finished training is of other data or settings.
    """
    final, lacks_test = finished_checkpoint(config, folder)
    if final is None or lacks_test:
        return False
    check_record(config, folder, training_inputs(config), compute_settings(config))
    return True


def _is_finished(config: Any, folder: str, inputs: dict[str, Any], compute: ComputeSettings | None) -> bool:
    """Whether all of this very training is done; a training of other settings is refused."""
    final, lacks_test = finished_checkpoint(config, folder)
    if final is None:
        if not config.CHECKPOINT.OVERWRITE_EXISTING:
            check_record(config, folder, inputs, compute)
        return False
    is_known = check_record(config, folder, inputs, compute)
    if lacks_test:
        return False
    if config.LOSS.name == "clusterfit_loss":
        Stages(config).check_labels()
    if not is_known:
        _say(f"{folder} has no {RECORD_NAME}, which says what its training was made from: taken for that of this run.")
        with contextlib.suppress(ArtifactError):  # a folder that is only read
            write_record(config, folder, inputs, resumes=True)
    return True


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  (VISSL sets up its log later, in the processes)
