"""Engines that run one stage alone: ``engine_name: clusterfit_extract | clusterfit_cluster | clusterfit_label``."""

from __future__ import annotations

import logging
from pathlib import Path

from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.plugin.engines.base import StageEngine
from vissl_clusterfit.plugin.stages import Stages

logger = logging.getLogger(__name__)


class ExtractEngine(StageEngine):
    """Features of the clustered split and of the held-out one."""

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Makes the features that are missing."""
        stages = Stages(cfg)
        for split in stages.settings.splits:
            store = stages.features(split)
            logger.info("Features of %s: %d x %d in %s.", split, store.num_samples, store.dim, store.folder)

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The features of each split."""
        settings = ClusterFitConfig.from_config(cfg.CLUSTERFIT)
        return {f"features of {split}": settings.paths.features(split) for split in settings.splits}


class ClusterEngine(StageEngine):
    """The codebook, from features that are there or are extracted first."""

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Makes the codebook if it is missing."""
        for codebook in Stages(cfg).codebooks():
            logger.info("Codebook of %d centroids in %s.", codebook.num_clusters, codebook.folder)

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The codebook of each number of clusters."""
        settings = ClusterFitConfig.from_config(cfg.CLUSTERFIT)
        return {f"codebook of {each.num_clusters}": each.paths.codebook for each in (settings, *settings.also)}


class LabelEngine(StageEngine):
    """Labels of the clustered split and of the held-out one, and all that they need."""

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Makes the labels that are missing."""
        stages = Stages(cfg)
        for labels in [stages.all_labels(), *stages.also_labels()]:
            logger.info("Labels of %d samples in %s.", labels.num_samples, labels.folder)

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The labels of each split and number of clusters."""
        settings = ClusterFitConfig.from_config(cfg.CLUSTERFIT)
        return {
            f"labels of {split}, {each.num_clusters} clusters": each.paths.labels(split)
            for each in (settings, *settings.also)
            for split in each.splits
        }
