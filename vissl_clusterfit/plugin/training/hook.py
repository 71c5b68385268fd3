"""The hook that makes the labels before the first training step, or finds that they are there."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from classy_vision.tasks import ClassyTask
from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.targets import Targets
from vissl_clusterfit.plugin.models.head import ClusterFitHead, PartialHead
from vissl_clusterfit.plugin.stages import Stages
from vissl_clusterfit.plugin.training.base_hook import Hook
from vissl_clusterfit.plugin.training.distillation import LOSS as DISTILLATION
from vissl_clusterfit.plugin.training.distillation import DistillationLoss
from vissl_clusterfit.plugin.training.ema import EmaHook
from vissl_clusterfit.plugin.training.loss import ClusterFitLoss
from vissl_clusterfit.plugin.training.metrics_log import MetricsHook
from vissl_clusterfit.plugin.training.partial_head import partial_head_hooks
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)


class ExtractThenClusterHook(Hook):
    """Runs what is missing of extraction, clustering and labelling when training starts, and checks what is there.

    Args:
        cfg: VISSL's ``config``, before the network is built: some of VISSL's trunks take out of it what they read.
    """

    def __init__(self, cfg: AttrDict) -> None:
        super().__init__()
        self._cfg = copy.deepcopy(cfg)

    def on_start(self, task: ClassyTask) -> None:
        """Leaves valid labels on disk for every process of the run, and the cluster sizes in the loss.

        Raises:
            ClusterFitError: the head is not K wide, or an artefact is of another run.
        """
        stages = Stages(self._cfg)
        if isinstance(task.base_loss, DistillationLoss):
            with torch.random.fork_rng():
                task.base_loss.set_teacher(stages.features(stages.settings.features.data_partition))
            return
        joined = stages.joined_labels()
        widths = [each.num_clusters for each in stages.settings.heads]
        require_head_width(task.base_model.heads, *widths, *(each.num_clusters[0] for each in joined))
        second = stages.second_labels()
        # Training must go the same way whether labels were made just now or before.
        with torch.random.fork_rng():
            heads = stages.training_labels()
        labels, *_ = of_heads = heads[stages.settings.features.data_partition]
        logger.info(
            "Training on %d clusters: %d of %d samples have a label; the largest cluster is %.1f times the mean.",
            labels.num_clusters[0],
            labels.num_samples - labels.num_unlabelled,
            labels.num_samples,
            labels.imbalance[0],
        )
        loss = task.base_loss
        if isinstance(loss, ClusterFitLoss):
            for head, each in enumerate(of_heads):
                loss.set_cluster_sizes(head, torch.tensor(each.cluster_sizes))
            loss.set_targets(_targets(stages.settings, heads, second))

    def on_phase_start(self, task: ClassyTask) -> None:
        """Tells the loss of which split the next batches are."""
        if isinstance(task.base_loss, ClusterFitLoss):
            task.base_loss.begin_phase("TRAIN" if task.train else "TEST")


def _targets(
    settings: ClusterFitConfig, heads: Mapping[str, Sequence[PseudoLabels]], second: PseudoLabels | None
) -> dict[str, list[Targets]]:
    """What each split is trained or scored on; nothing where that is the labels. Weights are those of the training."""
    clustered = settings.features.data_partition
    if not settings.targets.by_sample:
        return {}
    rules = [each.targets for each in settings.heads] + [settings.targets] * len(settings.joined_labels)
    of_training = [Targets(labels, own, second) for labels, own in zip(heads[clustered], rules, strict=True)]
    for number, (targets, own) in enumerate(zip(of_training, rules, strict=True)):
        said = f", temperature {targets.temperature:.6g}" if own.is_soft else ""
        logger.info("Targets of head %d: %s%s; %d samples are left out.", number, own.kind, said, targets.num_left_out)
    found = {clustered: of_training}
    for split in heads.keys() - {clustered}:
        found[split] = [
            Targets(
                labels,
                dataclasses.replace(own, min_margin=0.0, margin_power=0.0, agrees_with=""),
                temperature=targets.temperature,
            )
            for labels, own, targets in zip(heads[split], rules, of_training, strict=True)
        ]
    return found


def with_clusterfit_hook(add_loss_hooks: Callable[..., list]) -> Callable[..., list]:
    """VISSL's ``add_loss_hooks``, which adds that of the metrics, and ours for our losses and averaged weights."""

    @functools.wraps(add_loss_hooks)
    def add(hooks: list, loss_cfg: AttrDict, cfg: AttrDict) -> list:
        hooks = [MetricsHook(cfg), *add_loss_hooks(hooks, loss_cfg, cfg)]
        if cfg.LOSS.name in ("clusterfit_loss", DISTILLATION):
            hooks = [*hooks, ExtractThenClusterHook(cfg), *partial_head_hooks(cfg)]
        decay = cfg.MODEL.get("EMA_DECAY", 0)
        return [*hooks, EmaHook(decay, artifact_path(cfg.CHECKPOINT.DIR))] if decay else hooks

    return add


def require_head_width(heads: nn.ModuleList, *num_clusters: int) -> None:
    """Checks the last linear layer of each head, or of each classifier of a head that has several.

    Raises:
        ConfigError: one is not as wide as its labels have clusters.
    """
    for head in heads:
        if isinstance(head, PartialHead):
            continue  # which was made of the same numbers
        parts = head.classifiers if isinstance(head, ClusterFitHead) else [head]
        linear = [[layer for layer in part.modules() if isinstance(layer, nn.Linear)][-1:] for part in parts]
        widths = [layer.out_features for layers in linear for layer in layers]
        if widths and widths != [*num_clusters]:
            raise ConfigError(
                problem(
                    "config.MODEL.HEAD.PARAMS",
                    found=f"a head of width {', '.join(map(str, widths))}",
                    allowed=f"{', '.join(map(str, num_clusters))}, which is config.CLUSTERFIT.NUM_CLUSTERS",
                    remedy='Use ["clusterfit_head", {"num_clusters": "${config.CLUSTERFIT.NUM_CLUSTERS}"}].',
                )
            )
