"""``clusterfit_mix_collator``: MixUp or CutMix of a batch, by torchvision, with clusters as soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate
from torchvision.transforms import v2

from vissl_clusterfit.labels.assign import UNLABELLED

COLLATOR = "clusterfit_mix_collator"


def mix_collator(
    batch: Sequence[dict[str, Any]],
    num_clusters: int = 0,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    probability: float = 1.0,
) -> dict[str, Any]:
    """A batch of one image per sample, mixed.

    Args:
        batch: VISSL's samples.
        num_clusters: K.
        mixup_alpha, cutmix_alpha: of the Beta distribution from which the shares are drawn; 0 for none of it. Where
            both are above 0, each batch is mixed by one of the two.
        probability: of a batch to be mixed.

    Returns:
        As PyTorch's ``default_collate``, with ``label`` float32 (B, K): the shares of the clusters in each image.
        Samples without a label are left as they are, with a row of 0.
    """
    collated = default_collate(list(batch))
    (images,), (labels,) = collated["data"], collated["label"]
    labels = labels.flatten()  # one for each: what labels are joined to others is refused before
    labelled = labels != UNLABELLED
    targets = torch.zeros(len(labels), num_clusters)
    targets[labelled] = torch.nn.functional.one_hot(labels[labelled], num_clusters).float()
    kinds: list[Any] = [v2.MixUp(alpha=mixup_alpha, num_classes=num_clusters)] if mixup_alpha > 0 else []
    kinds += [v2.CutMix(alpha=cutmix_alpha, num_classes=num_clusters)] if cutmix_alpha > 0 else []
    if kinds and labelled.any() and torch.rand(()) < probability:
        images = images.clone()
        mixed, shares = v2.RandomChoice(kinds)(images[labelled], labels[labelled])
        images[labelled], targets[labelled] = mixed, shares.float()
    return {**collated, "data": [images], "label": [targets]}
