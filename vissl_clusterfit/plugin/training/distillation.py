"""``clusterfit_distillation_loss``: the control of the paper's figure, a student of the teacher's own predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from classy_vision.losses import ClassyLoss

from vissl_clusterfit.errors import ConfigError, TeacherError, problem
from vissl_clusterfit.features.store import FeatureStore

LOSS = "clusterfit_distillation_loss"
_SETTING = f"config.LOSS.{LOSS}.temperature"


class DistillationLoss(ClassyLoss):
    """Cross-entropy with the teacher's softened predictions (Hinton et al. 2015), T² · CE(softmax(t/T), softmax(s/T)).

    As ClusterFit's labels, the teacher's logits t are those of each image without augmentation, made once: a feature
    store of the teacher's heads (``CLUSTERFIT.FEATURES.LAYER_NAME: heads``). The target of a sample is its index.

    Config params (``LOSS.clusterfit_distillation_loss``):
        temperature: T, above 0.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self._logits: torch.Tensor | None = None
        self._readable: torch.Tensor | None = None

    @classmethod
    def from_config(cls, loss_config: Mapping[str, Any]) -> DistillationLoss:
        """Builds the loss from its block in the config.

        Raises:
            ConfigError: the temperature is not above 0.
        """
        temperature = loss_config["temperature"]
        if not temperature > 0:
            raise ConfigError(problem(_SETTING, found=temperature, allowed="a number above 0"))
        return cls(float(temperature))

    def set_teacher(self, store: FeatureStore) -> None:
        """Takes the teacher's logits, (N, C) of all samples of the split. Unreadable samples take no part."""
        self._logits = torch.from_numpy(store.read(0, store.num_samples))
        self._readable = torch.ones(store.num_samples, dtype=torch.bool)
        self._readable[torch.from_numpy(np.asarray(store.unreadable, dtype=np.int64))] = False

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of one batch.

        Args:
            output: the student's logits (B, C).
            target: int64 (B,), the index of each sample; -1 where it cannot be read.

        Returns:
            A scalar; 0 (with a gradient of 0) where no sample of the batch could be read.

        Raises:
            TeacherError: the teacher's predictions have another width.
        """
        index = target.cpu()
        logits = self._logits[index].to(output.device)
        readable = (self._readable[index] & (index >= 0)).to(output.device)
        if logits.shape != output.shape:
            raise TeacherError(
                problem(
                    "config.MODEL.HEAD.PARAMS",
                    found=f"{output.shape[1]} outputs",
                    allowed=f"{logits.shape[1]}, as many as the teacher has",
                )
            )
        soft = F.softmax(logits / self.temperature, dim=1)
        per_sample = -(soft * F.log_softmax(output / self.temperature, dim=1)).sum(dim=1) * self.temperature**2
        return (per_sample * readable).sum() / readable.sum().clamp(min=1)
