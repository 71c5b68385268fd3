"""Engines that run one stage alone: ``engine_name: clusterfit_extract | clusterfit_cluster | clusterfit_label``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.plugin.engines.base import PipelineEngine
from vissl_clusterfit.plugin.stages import Stages

logger = logging.getLogger(__name__)


class ExtractEngine(PipelineEngine):
    """Features of the clustered split and of the held-out one."""

    def make(self, cfg: AttrDict, settings: ClusterFitConfig) -> None:
        """Extracts the features that are missing."""
        stages = Stages(cfg, settings)
        for split in settings.splits:
            store = stages.features(split)
            logger.info("Features of %s: %d x %d in %s.", split, store.num_samples, store.dim, store.folder)

    def made(self, settings: ClusterFitConfig) -> Iterator[tuple[str, Path]]:
        """The features of each split."""
        for split in settings.splits:
            yield f"features of {split}", settings.paths.features(split)


class ClusterEngine(PipelineEngine):
    """The codebook, from features that exist or are extracted first."""

    def make(self, cfg: AttrDict, settings: ClusterFitConfig) -> None:
        """Computes the codebooks that are missing."""
        for codebook in Stages(cfg, settings).codebooks():
            logger.info("Codebook of %d centroids in %s.", codebook.num_clusters, codebook.folder)

    def made(self, settings: ClusterFitConfig) -> Iterator[tuple[str, Path]]:
        """The codebook of each number of clusters."""
        for each in (settings, *settings.also):
            yield f"codebook of {each.num_clusters}", each.paths.codebook


class LabelEngine(PipelineEngine):
    """Labels of the clustered split and of the held-out one, and all that they need."""

    def make(self, cfg: AttrDict, settings: ClusterFitConfig) -> None:
        """Assigns the labels that are missing."""
        stages = Stages(cfg, settings)
        for labels in [stages.all_labels(), *stages.also_labels()]:
            logger.info("Labels of %d samples in %s.", labels.num_samples, labels.folder)

    def made(self, settings: ClusterFitConfig) -> Iterator[tuple[str, Path]]:
        """The labels of each split and number of clusters."""
        for each in (settings, *settings.also):
            for split in each.splits:
                yield f"labels of {split}, {each.num_clusters} clusters", each.paths.labels(split)
