"""From a command line to running processes, and from what happened to an exit code.

VISSL's launcher swallows Ctrl-C, takes any finished training in the folder for the end of any engine, and starts
processes that know no plugin; this one replaces it and uses VISSL's functions for the rest.

Exit codes: 0 the whole run was done; 2 a mistake that the user can mend, said in one message; 1 any other failure,
with its traceback; 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem
from vissl_clusterfit.storage.places import artifact_path

logger = logging.getLogger(__name__)

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``config=<name> [overrides …]`` and returns the exit code."""
    overrides = list(sys.argv[1:] if argv is None else argv)
    try:
        dependencies.require("torch", "vissl")
        if not any(override.startswith("config=") for override in overrides):
            raise ConfigError(
                problem(
                    "The command",
                    found="no config",
                    allowed="config=<name>, for example config=clusterfit/quickstart/teacher",
                )
            )
        _run(overrides)
    except ClusterFitError as error:
        print(f"error: {_plain(error)}", file=sys.stderr)  # noqa: T201  (this is the command line)
        return USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return FAILED
    return DONE


def _plain(error: BaseException) -> str:
    """The text of an error without the traceback that a data worker puts around it."""
    wrapped = re.fullmatch(r"Caught (\w+) in .*\n[\w.]*\1: (.*)", str(error), flags=re.DOTALL)
    return (wrapped.group(2) if wrapped else str(error)).strip()


def _run(overrides: list[str]) -> None:
    # After the check that VISSL is there, and in every process before VISSL.
    from vissl_clusterfit.adapters import bootstrap

    bootstrap.cover_children()
    engine, node_id, config = compose(overrides)
    if config.SLURM.USE_SLURM:
        from vissl_clusterfit.adapters import slurm

        slurm.submit(overrides, engine, config)
    else:
        launch(engine, node_id, config)


def compose(overrides: list[str]) -> tuple[str, int, Any]:
    """The engine, the number of this node, and VISSL's ``config``, from overrides as on the command line.

    Raises:
        ConfigError: a config that does not exist or is no YAML, a key that is unknown, an interpolation that leads
            nowhere, a bad value under ``config.CLUSTERFIT``, a GPU where there is none, or what VISSL refuses.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from vissl.config import AttrDict
    from vissl.utils.hydra_config import compose_hydra_configuration, convert_to_attrdict
    from yaml import YAMLError

    from vissl_clusterfit.adapters.composition import complete_config
    from vissl_clusterfit.adapters.stages import require_device
    from vissl_clusterfit.slurm_settings import with_our_keys

    try:
        composed = compose_hydra_configuration(with_our_keys(overrides))
        OmegaConf.resolve(composed)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"The config cannot be composed: {error}") from None
    plain = OmegaConf.to_container(composed)
    require_device(AttrDict(plain["config"]), here=not plain["config"]["SLURM"]["USE_SLURM"])
    changes = complete_config(plain["config"])
    try:
        args, config = convert_to_attrdict(OmegaConf.create(plain))
    except AssertionError as error:
        if not str(error):
            raise
        raise ConfigError(f"VISSL refuses the config: {error}") from None
    for change in changes:
        print(change)  # noqa: T201  (VISSL sets up its log later, in the processes)
    return args.engine_name, args.node_id, config


def launch(engine: str, node_id: int, config: Any, *, apart: bool = False) -> None:
    """Runs an engine in all processes of this node, and returns when the last has finished.

    Args:
        engine: its name in VISSL.
        node_id: the number of this node.
        config: VISSL's.
        apart: start a process even for a run of one, instead of doing its work in this one.

    Raises:
        ClusterFitError: the user's mistake that a process met.
        torch.multiprocessing.ProcessRaisedException: a process failed otherwise; it holds the traceback.
    """
    import torch
    from vissl.utils import distributed_launcher
    from vissl.utils.checkpoint import get_checkpoint_folder, is_training_finished
    from vissl.utils.misc import get_dist_run_id
    from vissl.utils.slurm import get_node_id

    from vissl_clusterfit.adapters.label_source import require_data_paths
    from vissl_clusterfit.adapters.stages import Stages

    node_id = get_node_id(node_id)
    folder = get_checkpoint_folder(config)
    checkpoint = None
    if engine == "train":
        if is_training_finished(config, checkpoint_folder=folder):
            if config.LOSS.name == "clusterfit_loss":
                Stages(config).check_labels()
            print(f"This training is finished; its checkpoints and figures are in {folder}.")  # noqa: T201
            return
        checkpoint = _checkpoint_to_resume(config, folder)
    _require_gpus_and_weights(config, resuming=checkpoint is not None)
    require_data_paths(config)
    run_id = get_dist_run_id(config, config.DISTRIBUTED.NUM_NODES)
    distributed_launcher._copy_to_local(config)
    try:
        num_processes = config.DISTRIBUTED.NUM_PROC_PER_NODE
        if config.DISTRIBUTED.NUM_NODES * num_processes == 1 and not apart:
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
        (Path(messages) / str(local_rank)).write_text(_plain(error), "utf-8")
        sys.exit(USER_ERROR)
