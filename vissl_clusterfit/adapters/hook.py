"""The hook that makes the labels before the first training step, or finds that they are there."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable

import torch
from classy_vision.hooks import ClassyHook
from classy_vision.tasks import ClassyTask
from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit.adapters.loss import ClusterFitLoss
from vissl_clusterfit.adapters.stages import Stages
from vissl_clusterfit.errors import ConfigError, problem

logger = logging.getLogger(__name__)


class ExtractThenClusterHook(ClassyHook):
    """Runs what is missing of extraction, clustering and labelling when training starts, and checks what is there.

    Args:
        cfg: VISSL's ``config``, before the network is built: some of VISSL's trunks take out of it what they read.
    """

    on_phase_start = ClassyHook._noop
    on_forward = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_step = ClassyHook._noop
    on_phase_end = ClassyHook._noop
    on_end = ClassyHook._noop
    on_exception = ClassyHook._noop

    def __init__(self, cfg: AttrDict) -> None:
        super().__init__()
        self._cfg = copy.deepcopy(cfg)

    def on_start(self, task: ClassyTask) -> None:
        """Leaves valid labels on disk for every process of the run, and the cluster sizes in the loss.

        Raises:
            ClusterFitError: the head is not K wide, or an artefact is of another run.
        """
        stages = Stages(self._cfg)
        require_head_width(task.base_model.heads, stages.settings.num_clusters)
        # Training must go the same way whether labels were made just now or before.
        with torch.random.fork_rng():
            labels = stages.all_labels()
        logger.info(
            "Training on %d clusters: %d of %d samples have a label; the largest cluster is %.1f times the mean.",
            labels.num_clusters[0],
            labels.num_samples - labels.num_unlabelled,
            labels.num_samples,
            labels.imbalance[0],
        )
        loss = task.base_loss
        if isinstance(loss, ClusterFitLoss):
            loss.set_cluster_sizes(0, torch.from_numpy(labels.cluster_sizes))


def with_clusterfit_hook(add_loss_hooks: Callable[..., list]) -> Callable[..., list]:
    """VISSL's ``add_loss_hooks``, which adds ours too where the loss is ``clusterfit_loss``."""

    @functools.wraps(add_loss_hooks)
    def add(hooks: list, loss_cfg: AttrDict, cfg: AttrDict) -> list:
        hooks = add_loss_hooks(hooks, loss_cfg, cfg)
        return [*hooks, ExtractThenClusterHook(cfg)] if cfg.LOSS.name == "clusterfit_loss" else hooks

    return add


def require_head_width(heads: nn.ModuleList, num_clusters: int) -> None:
    """Checks the last linear layer of each head.

    Raises:
        ConfigError: one is not ``num_clusters`` wide.
    """
    for head in heads:
        linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        if linear and linear[-1].out_features != num_clusters:
            raise ConfigError(
                problem(
                    "config.MODEL.HEAD.PARAMS",
                    found=f"a head of width {linear[-1].out_features}",
                    allowed=f"{num_clusters}, which is config.CLUSTERFIT.NUM_CLUSTERS",
                    remedy='Use ["clusterfit_head", {"num_clusters": "${config.CLUSTERFIT.NUM_CLUSTERS}"}].',
                )
            )
