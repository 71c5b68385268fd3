"""``clusterfit_accuracy_meter``: VISSL's accuracy over the samples that have a label; its own fails on the others."""

from __future__ import annotations

import torch
from vissl.meters.accuracy_list_meter import AccuracyListMeter

from vissl_clusterfit.labels.assign import UNLABELLED

METER = "clusterfit_accuracy_meter"


class ClusterAccuracyMeter(AccuracyListMeter):
    """How often the cluster of a sample is among the k most likely ones, per head. Reports under VISSL's own name."""

    def update(self, model_output: torch.Tensor | list[torch.Tensor], target: torch.Tensor) -> None:
        """Adds a batch: logits (B, K), or a list of them, and int64 labels (B,) or (B, L), one column per head.

        Where a column more has the indices of the samples, it is left out: what counts is the label.

        Of a mixed image, whose target is a row of shares (B, K), the cluster with the largest share is its label.
        """
        if target.is_floating_point():
            target = torch.where(target.sum(dim=1) > 0, target.argmax(dim=1), UNLABELLED)
        outputs = model_output if isinstance(model_output, (list, tuple)) else [model_output]
        columns = target.unsqueeze(1) if target.ndim == 1 else target
        columns = columns.expand(-1, len(outputs)) if columns.shape[1] == 1 else columns[:, : len(outputs)]
        for meter, output, labels in zip(self._meters, outputs, columns.unbind(dim=1), strict=True):
            labelled = labels != UNLABELLED
            if labelled.any():
                meter.update(output[labelled], labels[labelled])
