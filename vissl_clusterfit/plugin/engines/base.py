"""What the engines of this package share: VISSL's environment, log and process group around one stage."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from vissl.config import AttrDict
from vissl.engines.engine_registry import Engine
from vissl.utils import logger as vissls_logger
from vissl.utils.env import set_env_vars
from vissl.utils.misc import set_seeds, setup_multiprocessing_method

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import naming_settings
from vissl_clusterfit.plugin.costs import counted

# How shared code names the folders of artefacts, and the block of the features.
OUTPUT_FOLDERS = r"(?:config\.)?CLUSTERFIT\.OUTPUT_DIR, (?:config\.)?CLUSTERFIT\.FEATURES\.PATH"
FEATURES_BLOCK = r"(?<![\w.])(?:config\.)?(?:CLUSTERFIT\.)?FEATURES\."


class StageEngine(Engine):
    """What the engines share: VISSL's environment, log and process group, then one stage."""

    #: What shared code calls a setting, as regular expressions, and what this engine calls it.
    settings_names: ClassVar[Mapping[str, str]] = {}

    def run_engine(
        self,
        cfg: AttrDict,
        dist_run_id: str,
        checkpoint_path: str | None,
        checkpoint_folder: str,
        local_rank: int = 0,
        node_id: int = 0,
        hook_generator: Callable[[Any], list] | None = None,
    ) -> None:
        """Runs the stage in this process; the arguments are those that VISSL gives every engine."""
        set_env_vars(local_rank, node_id, cfg)
        global_rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # VISSL makes the logger of this name the root. One of ours would pass its lines to itself: see log_bridge.py.
        vissls_logger.setup_logging("clusterfit", output_dir=checkpoint_folder, rank=global_rank)
        setup_multiprocessing_method(cfg.MULTI_PROCESSING_METHOD)
        set_seeds(cfg, global_rank)
        if cfg.MACHINE.DEVICE == "gpu" and torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        dist.init_process_group(
            backend=cfg.DISTRIBUTED.BACKEND,
            init_method=f"{cfg.DISTRIBUTED.INIT_METHOD}://{dist_run_id}",
            world_size=world_size,
            rank=global_rank,
        )
        try:
            with naming_settings(self.settings_names):
                self.run_counted(cfg, checkpoint_folder)
        finally:
            dist.destroy_process_group()
        vissls_logger.shutdown_logging()

    def run_counted(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """The work of this engine, and what it takes as one stage."""
        with counted(cfg, "benchmark"):
            self.run_stage(cfg, checkpoint_folder)

    @abstractmethod
    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """The work of this engine, called by every process of the run."""

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """What the user may look for when the run is finished: files and artefacts, by their labels."""
        return {}


class PipelineEngine(StageEngine):
    """The engines that make artefacts of the pipeline, whose settings are read in one place."""

    def run_counted(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Each stage counts for itself."""
        self.run_stage(cfg, checkpoint_folder)

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Makes what is missing."""
        self.make(cfg, ClusterFitConfig.from_config(cfg))

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The artefacts, each with a label."""
        return dict(self.made(ClusterFitConfig.from_config(cfg)))

    @abstractmethod
    def make(self, cfg: AttrDict, settings: ClusterFitConfig) -> None:
        """Makes what is missing, called by every process of the run."""

    @abstractmethod
    def made(self, settings: ClusterFitConfig) -> Iterator[tuple[str, Path]]:
        """A label and the folder of each artefact."""
