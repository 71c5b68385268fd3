"""The processes of a run on this machine: what must hold before they start, starting them, what they end with."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

from vissl_clusterfit.adapters.exits import USER_ERROR, plain
from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem
from vissl_clusterfit.storage.places import artifact_path


def launch(engine: str, node_id: int, config: Any) -> None:
    """Runs an engine in all processes of this node, and returns when the last has finished; what is done is not redone.

    Raises:
        ClusterFitError: the user's mistake that a process met.
        torch.multiprocessing.ProcessRaisedException: a process failed otherwise; it holds the traceback.
    """
    import torch
    from vissl.utils import distributed_launcher
    from vissl.utils.checkpoint import get_checkpoint_folder, is_training_finished
    from vissl.utils.misc import get_dist_run_id
    from vissl.utils.slurm import get_node_id

    from vissl_clusterfit.adapters.finished import interrupted_test
    from vissl_clusterfit.adapters.label_source import require_data_paths
    from vissl_clusterfit.adapters.stages import Stages

    node_id = get_node_id(node_id)
    folder = get_checkpoint_folder(config)
    checkpoint = None
    if engine == "train":
        checkpoint = interrupted_test(config, folder)
        if not checkpoint and is_training_finished(config, checkpoint_folder=folder):
            if config.LOSS.name == "clusterfit_loss":
                Stages(config).check_labels()
            return
        checkpoint = checkpoint or _checkpoint_to_resume(config, folder)
    _require_gpus_and_weights(config, resuming=checkpoint is not None)
    require_data_paths(config)
    run_id = get_dist_run_id(config, config.DISTRIBUTED.NUM_NODES)
    distributed_launcher._copy_to_local(config)
    try:
        num_processes = config.DISTRIBUTED.NUM_PROC_PER_NODE
        if config.DISTRIBUTED.NUM_NODES * num_processes == 1:
            _work(0, None, config, node_id, run_id, engine, checkpoint, folder)
            return
        with tempfile.TemporaryDirectory() as messages:
            try:
                torch.multiprocessing.spawn(
                    _work,
                    args=(messages, config, node_id, run_id, engine, checkpoint, folder),
                    nprocs=num_processes,
                )
            except KeyboardInterrupt:
                for process in multiprocessing.active_children():  # Python would wait for them at its own end
                    process.terminate()
                raise
            except (
                torch.multiprocessing.ProcessExitedException,
                torch.multiprocessing.ProcessRaisedException,
            ):
                said = sorted(Path(messages).iterdir(), key=lambda file: int(file.name))
                if said:  # by several, it is the same mistake
                    raise ClusterFitError(said[0].read_text("utf-8")) from None
                raise
    finally:
        distributed_launcher._cleanup_local_dir(config)


def _checkpoint_to_resume(config: Any, folder: str) -> str | None:
    from vissl.utils.checkpoint import get_resume_checkpoint

    latest = artifact_path(folder, "config.CHECKPOINT.DIR") / "checkpoint.torch"
    if config.CHECKPOINT.USE_SYMLINK_CHECKPOINT_FOR_RESUME and latest.exists():
        return str(latest)
    return get_resume_checkpoint(config, checkpoint_folder=folder)


def _require_gpus_and_weights(config: Any, *, resuming: bool) -> None:
    """What VISSL asserts in its launcher."""
    import torch

    wanted, found = config.DISTRIBUTED.NUM_PROC_PER_NODE, torch.cuda.device_count()
    if config.MACHINE.DEVICE == "gpu" and wanted > found:
        raise ConfigError(
            problem(
                "config.DISTRIBUTED.NUM_PROC_PER_NODE",
                found=f"{wanted}, and PyTorch sees {found} GPUs",
                allowed=f"1 to {found}, one process per GPU",
            )
        )
    weights = config.MODEL.WEIGHTS_INIT.PARAMS_FILE
    setting = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    if weights and not resuming and not artifact_path(weights, setting).is_file():
        raise ConfigError(
            problem(
                setting,
                found=f"{weights}, which does not exist",
                allowed='the path of a VISSL checkpoint, or "" for random weights',
            )
        )


def _work(
    local_rank: int,
    messages: str | None,
    config: Any,
    node_id: int,
    run_id: str,
    engine: str,
    checkpoint: str | None,
    folder: str,
) -> None:
    """One process of a run. A user's mistake goes to the parent as a file, as processes hand over tracebacks only."""
    import torch
    from vissl.engines import run_engine
    from vissl.hooks import default_hook_generator

    from vissl_clusterfit.adapters import bootstrap

    bootstrap.cover_children()
    torch.backends.cudnn.deterministic = config.REPRODUCIBILITY.CUDDN_DETERMINISTIC
    try:
        run_engine(
            engine,
            config,
            run_id,
            checkpoint,
            folder,
            local_rank=local_rank,
            node_id=node_id,
            hook_generator=default_hook_generator,
        )
    except ClusterFitError as error:
        if messages is None:
            raise
        (Path(messages) / str(local_rank)).write_text(plain(error), "utf-8")
        sys.exit(USER_ERROR)
