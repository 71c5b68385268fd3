"""What the trainings of a tuning are made from: labels that fit, and all that must be the same to go on with them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.true_labels import labels_of_both
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.result_cache import array_hash

_SPLITS = ("TRAIN", "TEST")


def check_tuning_labels(cfg: AttrDict) -> np.ndarray:
    """The labels of TRAIN; those of both splits are looked at, so that nothing is wrong with them at the end.

    Raises:
        DataError: labels that cannot be read, other classes in TEST than in TRAIN, or more than a head has.
    """
    labels = labels_of_both(cfg)
    for split, found in labels.items():
        widths = [
            head[1]["dims"][-1] for head in cfg.MODEL.HEAD.PARAMS if isinstance(head[0], str) and "dims" in head[1]
        ]
        needed = (int(found.max()) + 1 if found.ndim == 1 else found.shape[1]) if len(found) else 0
        if not needed or any(width < needed for width in widths):
            what = f"{needed} classes, and heads for {min(widths, default=0)}" if needed else "no samples"
            allowed = "heads for all classes: the last of dims in config.MODEL.HEAD.PARAMS"
            raise DataError(problem(f"config.DATA.{split}", found=what, allowed=allowed))
    return labels["TRAIN"]


def inputs_of(cfg: AttrDict, settings: TuneSettings, labels: np.ndarray, *, is_split: bool) -> dict[str, Any]:
    """What trainings are made from, but for the grid: one that grows keeps those that are done."""
    weights = cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE
    validation = {name: getattr(settings, name) for name in ("validation", "validation_share", "seed")}
    inputs = {
        "data": {split: {**cfg.DATA[split], **SplitImages(cfg, split, []).inputs()} for split in _SPLITS},
        "labels": array_hash(labels),
        "model": cfg.MODEL,
        "weights": artifacts.file_sha256(artifact_path(weights)) if weights else "",
        "loss": {"name": cfg.LOSS.name, **cfg.LOSS[cfg.LOSS.name]},
        "meters": cfg.METERS,
        "optimizer": cfg.OPTIMIZER,
        "processes": cfg.DISTRIBUTED.NUM_PROC_PER_NODE,
        "seed": cfg.SEED_VALUE,
        "split": validation if is_split else {},
    }
    return json.loads(json.dumps(inputs, default=str))  # a type of numbers is among them
