"""What the processes of a run will do, settled once before they start: from where it resumes, and what it needs."""

from __future__ import annotations

# A worker finds this module by name, pickled by reference: repairs come before VISSL.
from vissl_clusterfit.plugin import bootstrap  # isort: split

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import vissl.data
from vissl.engines import run_engine
from vissl.hooks import default_hook_generator

from vissl_clusterfit.errors import ArtifactError, ConfigError, problem
from vissl_clusterfit.features.worker_init import lost_readers_told
from vissl_clusterfit.plugin.data.prepared import require_prepared
from vissl_clusterfit.plugin.data.source_names import base_source, require_data_paths
from vissl_clusterfit.plugin.data.transforms import require_transforms
from vissl_clusterfit.plugin.data.true_labels import require_labels
from vissl_clusterfit.plugin.training.progress import run_folder
from vissl_clusterfit.plugin.training.start import begin_training
from vissl_clusterfit.storage.paths import artifact_path

_MISFIT = "Update classy state from checkpoint failed"

#: Gives every node what ``decide`` gives on one of them: ``broadcast(name, decide)``.
Broadcast = Callable[[str, Callable[[], Any]], Any]


def prepare_worker(
    engine: str,
    config: Any,
    node_id: int,
    run_id: str,
    broadcast: Broadcast,
    hold: contextlib.ExitStack,
) -> Callable[[int], None] | None:
    """What a process does, as a function of its number on this node that pickles; None if all is done already.

    Args:
        engine: its name in VISSL.
        config: VISSL's.
        node_id: the number of this node.
        run_id: where the processes meet.
        broadcast: gives every node what is decided on one of them.
        hold: closed when the run has ended; until then no other training works in its folder.

    Raises:
        ClusterFitError: what the run needs is not on this node, or its folder has a training of something else.
    """
    folder = run_folder(config)
    require_data_paths(config)
    require_prepared(config)
    if engine == "train":
        require_labels(config)
        _require_parts(config)
    # One node decides: others may have another folder of checkpoints, with nothing in it.
    begin = functools.partial(begin_training, config, folder, hold)
    finished, checkpoint = broadcast("start", begin) if engine == "train" else (False, None)
    if finished:
        return None
    require_gpus_and_weights(config, resuming=checkpoint is not None)
    return functools.partial(
        _work, engine=engine, config=config, node_id=node_id, run_id=run_id, checkpoint=checkpoint, folder=folder
    )


def require_gpus_and_weights(config: Any, *, resuming: bool) -> None:
    """What VISSL asserts in its launcher."""
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


def _require_parts(config: Any) -> None:
    """Heads, collators, and the transforms of image files; other sources may give what transforms are not tried on."""
    if not config.MODEL.HEAD.PARAMS:
        allowed = 'one head or more for a training, such as [["mlp", {"dims": [2048, 1000]}]]'
        raise ConfigError(problem("config.MODEL.HEAD.PARAMS", found="[]", allowed=allowed))
    optimizer = config.OPTIMIZER
    if optimizer.name.startswith("sgd") and optimizer.nesterov and not optimizer.momentum:
        found = f"true with config.OPTIMIZER.momentum={optimizer.momentum}"
        raise ConfigError(problem("config.OPTIMIZER.nesterov", found=found, allowed="false, or a momentum above 0"))
    for split in ("TRAIN", "TEST") if config.TEST_MODEL or config.TEST_ONLY else ("TRAIN",):
        data = config.DATA[split]
        vissl.data.get_collator(data.COLLATE_FUNCTION, data.COLLATE_FUNCTION_PARAMS)
        if data.DATA_SOURCES and {*map(base_source, data.DATA_SOURCES)} <= {"disk_folder", "disk_filelist", "images"}:
            require_transforms(data.TRANSFORMS, f"config.DATA.{split}.TRANSFORMS")


@contextlib.contextmanager
def _misfits_told(checkpoint: str | None) -> Iterator[None]:
    """Has a checkpoint that VISSL cannot take end the run in one message; what does not fit, VISSL's log says."""
    try:
        yield
    except AssertionError as error:
        if checkpoint is None or _MISFIT not in str(error):
            raise
        raise ArtifactError(
            f"{checkpoint} does not fit this training: its network, heads or optimizer are others, as the log says. "
            "Undo the change, or name another config.CHECKPOINT.DIR."
        ) from error


def _work(
    local_rank: int, *, engine: str, config: Any, node_id: int, run_id: str, checkpoint: str | None, folder: str
) -> None:
    """One process of a run."""
    bootstrap.cover_children()
    torch.backends.cudnn.deterministic = config.REPRODUCIBILITY.CUDDN_DETERMINISTIC
    with lost_readers_told(), _misfits_told(checkpoint):
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
