"""Labels of videos: a source's own under its name, one row per video of a file, several classes per video."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data.dataloader import default_collate

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.plugin.data.video_source import SOURCES, VideoSource

_ASK_THE_DATA_SOURCE = "torchvision_dataset"


def with_video_labels(load_labels: Callable[[Any], None]) -> Callable[[Any], None]:
    """VISSL's loading of labels, knowing our sources by name; a file has a row for each video, not for each clip."""

    @functools.wraps(load_labels)
    def load(dataset: Any) -> None:
        dataset.label_sources = [
            _ASK_THE_DATA_SOURCE if source in SOURCES else source for source in dataset.label_sources
        ]
        load_labels(dataset)
        for number, (source, labels) in enumerate(zip(dataset.data_objs, dataset.label_objs, strict=False)):
            videos = getattr(source, "images", source)  # of one that is paired with pseudo-labels
            if isinstance(videos, VideoSource) and dataset.label_sources[number] != _ASK_THE_DATA_SOURCE:
                dataset.label_objs[number] = _per_sample(labels, videos)

    return load


def _per_sample(labels: np.ndarray, videos: VideoSource) -> np.ndarray:
    per_video = videos.clips.samples_per_video
    if len(labels) * per_video != len(videos):
        found, allowed = f"{len(labels)} rows for {len(videos) // per_video} videos", "a row for each video"
        raise DataError(problem("config.DATA: LABEL_PATHS", found=found, allowed=allowed))
    return np.repeat(labels, per_video, axis=0) if per_video > 1 else labels


def multi_label_collator(batch: list[dict[str, Any]], num_classes: int) -> dict[str, Any]:
    """``default_collate``, then labels int64 (B, M), with -1 for none, as targets float32 (B, num_classes).

    Each of the k labels of a sample gets 1/k: the soft targets of weakly supervised pre-training on several hashtags
    per sample (Mahajan et al. 2018, section 2.3). A sample without labels gets zeros, and with a cross-entropy no loss.

    Raises:
        ConfigError: a label is ``num_classes`` or more.
    """
    collated = default_collate(batch)
    collated["label"] = [_soft_targets(labels, num_classes) for labels in collated["label"]]
    return collated


def _soft_targets(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    rows = labels.unsqueeze(1) if labels.ndim == 1 else labels
    if int(rows.max()) >= num_classes:
        name, allowed = "COLLATE_FUNCTION_PARAMS.num_classes", "more than the highest label"
        raise ConfigError(problem(name, found=f"{num_classes} with label {int(rows.max())}", allowed=allowed))
    targets = torch.zeros(len(rows), num_classes + 1)  # the last column takes what stands for none
    targets.scatter_(1, torch.where(rows >= 0, rows, num_classes), 1.0)
    targets = targets[:, :num_classes]
    return targets / targets.sum(dim=1, keepdim=True).clamp(min=1)
