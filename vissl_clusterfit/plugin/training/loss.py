"""``clusterfit_loss``: cross-entropy over the K clusters (paper, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from classy_vision.losses import ClassyLoss

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.labels.targets import Targets
from vissl_clusterfit.plugin.training.partial_softmax import PartialSoftmax

IGNORED = -1
_WEIGHTINGS = ("none", "inverse", "inverse_sqrt")


class ClusterFitLoss(ClassyLoss):
    """Cross-entropy between the logits of each head and its column of pseudo-labels, averaged over labelled samples.

    Samples with label -1 (unreadable ones) take no part. With several heads the loss is the mean over heads.

    Other targets than one label (``CLUSTERFIT.TARGETS``) come from the artefacts, by the index of a sample, which is
    then the last column of the labels. A sample of weight w with the shares q of clusters adds ``-w Σ_k q_k log p_k``.

    Config params (``LOSS.clusterfit_loss``):
        num_clusters: K of each head, an int or a list of ints.
        label_smoothing: mass that is spread evenly over all clusters, in [0, 1).
        cluster_weighting: ``none``; ``inverse`` or ``inverse_sqrt`` weigh a cluster of n samples by 1/n or 1/sqrt(n),
            scaled so that the mean weight of a sample is 1. The paper uses none.
    """

    def __init__(
        self, num_clusters: Sequence[int], label_smoothing: float = 0.0, cluster_weighting: str = "none"
    ) -> None:
        super().__init__()
        self.num_clusters = tuple(num_clusters)
        self.label_smoothing = label_smoothing
        self.cluster_weighting = cluster_weighting
        for head, width in enumerate(self.num_clusters):
            self.register_buffer(f"cluster_weights_{head}", torch.ones(width))
        # Of each split, for each head. They are made again at each start, and are no part of a checkpoint.
        self._targets: dict[str, Sequence[Targets]] = {}
        self._split = ""
        #: Of each codebook, where the rows of the head are not in the network; and the number of the step.
        self.heads: Sequence[PartialSoftmax] = ()
        self.step = 0

    @classmethod
    def from_config(cls, loss_config: Mapping[str, Any]) -> ClusterFitLoss:
        """Builds the loss from its block in the config.

        Raises:
            ConfigError: a value is out of range.
        """
        width = loss_config["num_clusters"]
        smoothing = loss_config.get("label_smoothing", 0.0)
        weighting = loss_config.get("cluster_weighting", "none")
        if not 0.0 <= smoothing < 1.0:
            raise ConfigError(
                problem(
                    "config.LOSS.clusterfit_loss.label_smoothing",
                    found=smoothing,
                    allowed="0.0 to less than 1.0",
                )
            )
        if weighting not in _WEIGHTINGS:
            raise ConfigError(
                problem(
                    "config.LOSS.clusterfit_loss.cluster_weighting",
                    found=repr(weighting),
                    allowed=" | ".join(_WEIGHTINGS),
                )
            )
        return cls([width] if isinstance(width, int) else width, smoothing, weighting)

    def set_cluster_sizes(self, head: int, sizes: torch.Tensor) -> None:
        """Derives the weights of one head from the number of samples in each of its clusters, int (K,)."""
        if self.cluster_weighting == "none":
            return
        sizes = sizes.double()
        weights = sizes.clamp(min=1).pow(-1.0 if self.cluster_weighting == "inverse" else -0.5)
        weights *= sizes.sum() / (weights * sizes).sum()
        buffer = self.get_buffer(f"cluster_weights_{head}")
        buffer.copy_(weights.to(buffer))

    def set_targets(self, targets: Mapping[str, Sequence[Targets]]) -> None:
        """Takes the targets of each split, for each head; none where the labels are all there is."""
        self._targets = dict(targets)

    def begin_phase(self, split: str) -> None:
        """Says of which split the next batches are."""
        self._split = split

    def forward(self, output: torch.Tensor | list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """The loss of one batch.

        Args:
            output: logits (B, K), or a list of them, one per head; features (B, D) where the loss has the rows.
            target: int64 labels (B,), or (B, L) with one column per head, and the index of the sample after them where
                there are targets; or float shares of the clusters (B, K) for mixed images, with rows of 0 for samples
                without a label.

        Returns:
            A scalar; 0 (with a gradient of 0) where no sample of the batch has a label.
        """
        logits = output if isinstance(output, (list, tuple)) else [output]
        columns = target.unsqueeze(1) if target.ndim == 1 or target.is_floating_point() else target
        samples = None
        if self._targets:
            columns, samples = columns[:, :-1], columns[:, -1].cpu().numpy()
        if self.heads:
            return self._of_features(output, columns, samples)
        if columns.shape[1] == 1 and not target.is_floating_point():
            columns = columns.expand(-1, len(logits))
        if [head.shape[1] for head in logits] != list(self.num_clusters) or columns.shape[1] != len(logits):
            raise ConfigError(
                problem(
                    "config.MODEL.HEAD.PARAMS",
                    found=f"heads of widths {[head.shape[1] for head in logits]} for {columns.shape[1]} label columns",
                    allowed=f"heads of widths {list(self.num_clusters)}, one per label column",
                    remedy='Use ["clusterfit_head", {"num_clusters": "${config.CLUSTERFIT.NUM_CLUSTERS}"}].',
                )
            )
        if samples is not None:
            targets = self._targets[self._split]
            losses = [self._of_targets(number, head, targets[number], samples) for number, head in enumerate(logits)]
        else:
            losses = [self._one_head(number, head, columns[:, number]) for number, head in enumerate(logits)]
        return torch.stack(losses).mean()

    def _one_head(self, number: int, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if target.is_floating_point():
            return self._of_shares(number, logits, target)
        per_sample = F.cross_entropy(
            logits, target, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="none"
        )
        if self.cluster_weighting != "none":
            per_sample = per_sample * self.get_buffer(f"cluster_weights_{number}")[target.clamp(min=0)]
        return per_sample.sum() / (target != IGNORED).sum().clamp(min=1)

    def _of_shares(self, number: int, logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        labelled = shares.sum(dim=1) > 0
        per_sample = F.cross_entropy(logits, shares, label_smoothing=self.label_smoothing, reduction="none")
        if self.cluster_weighting != "none":
            per_sample = per_sample * (shares @ self.get_buffer(f"cluster_weights_{number}"))
        return (per_sample * labelled).sum() / labelled.sum().clamp(min=1)

    def _of_targets(self, number: int, logits: torch.Tensor, targets: Targets, samples: np.ndarray) -> torch.Tensor:
        clusters, shares, weights = (torch.from_numpy(array).to(logits.device) for array in targets.of(samples))
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        per_sample = -(shares * log_probabilities.gather(1, clusters)).sum(dim=1)
        if self.label_smoothing:
            even = -log_probabilities.mean(dim=1)
            per_sample = (1 - self.label_smoothing) * per_sample + self.label_smoothing * even
        if self.cluster_weighting != "none":
            weights = weights * (shares * self.get_buffer(f"cluster_weights_{number}")[clusters]).sum(dim=1)
        return (per_sample * weights).sum() / (weights > 0).sum().clamp(min=1)

    def _of_features(self, features: torch.Tensor, columns: torch.Tensor, samples: np.ndarray | None) -> torch.Tensor:
        """The loss of heads whose rows are not in the network."""
        losses = []
        for number, head in enumerate(self.heads):
            if samples is None:
                labels = columns[:, number : number + 1] if columns.shape[1] > 1 else columns
                clusters, shares = labels.clamp(min=0), torch.ones(labels.shape, device=features.device)
                weights = (labels[:, 0] != IGNORED).float()
            else:
                found = self._targets[self._split][number].of(samples)
                clusters, shares, weights = (torch.from_numpy(array).to(features.device) for array in found)
            if self.cluster_weighting != "none":
                weights = weights * (shares * self.get_buffer(f"cluster_weights_{number}")[clusters]).sum(dim=1)
            losses.append(head.loss(features, clusters, shares, weights, self.step))
        return torch.stack(losses).mean()
