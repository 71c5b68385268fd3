"""Which samples an epoch of a training has, where these are drawn balanced over clusters: CLUSTERFIT.BALANCED_SAMPLES.

Each epoch has a draw of its own, by the seed and the number of the epoch alone: the same on every process, and after a
resume. It is made when the epoch begins, as labels need not exist before the training does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.sample import draw_of_epoch, levels_of
from vissl_clusterfit.plugin.data.labelled_source import PseudoLabelledSource


def balanced_sampling(dataset: Any) -> Callable[..., BalancedSampler] | None:
    """What stands for VISSL's ``get_sampler``; None where its own is wanted.

    Args:
        dataset: VISSL's, of a split.
    """
    if dataset.split != "TRAIN" or not any(isinstance(source, PseudoLabelledSource) for source in dataset.data_objs):
        return None
    settings = ClusterFitConfig.from_config(dataset.cfg)
    return functools.partial(BalancedSampler, settings=settings) if settings.balanced_samples else None


class BalancedSampler(DistributedSampler):
    """Of each epoch the samples of this process, in an order of their own.

    The processes take turns in one order, so that a step has the same samples on any number of them. Where they do not
    all have as many, the first samples of the order come twice, as PyTorch's sampler has it.

    Args:
        dataset: VISSL's.
        dataset_config: its block of ``config.DATA``.
        seed: of the training.
        settings: ``config.CLUSTERFIT``.
        group: how many processes there are, and which one this is; those of the run if None.
    """

    def __init__(
        self,
        dataset: Any,
        dataset_config: Any,
        seed: int,
        *,
        settings: ClusterFitConfig,
        group: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(dataset, *(group or (None, None)), seed=seed)
        self.num_samples = math.ceil(settings.balanced_samples / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
        self.batch_size, self.start_iter = dataset_config["BATCHSIZE_PER_REPLICA"], 0
        self._settings = settings

    def set_start_iter(self, start_iter: int) -> None:
        """The first step of the epoch that is not done yet."""
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[int]:
        """The samples from the first step that is not done.

        Raises:
            ConfigError: fewer samples have a label.
            ArtifactError: the labels are not there, or the codebook with their levels.
        """
        labels = PseudoLabels.open(self._settings.paths.labels("TRAIN"))
        count, of_codebook = self._settings.balanced_samples, self._settings.paths.codebook
        drawn = draw_of_epoch(labels, count, levels_of(labels, of_codebook), self.seed, self.epoch)
        order = drawn[torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + self.epoch)).numpy()]
        own = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        return iter(own[self.start_iter * self.batch_size :].tolist())
