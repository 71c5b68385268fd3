"""``engine_name: clusterfit_video_accuracy``: a trained network with its head, on several clips and crops per video.

It goes with the config that trained the network, linear classifiers on a frozen trunk included. Clips, crops and batch
size are those of ``config.DATA.TEST`` (``CLIPS.PER: clip``). The softmax of the network's output is averaged over the
crops of a clip, then over the clips of a video.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit import distributed
from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.models.weight_files import WeightsSettings, load_state_dict
from vissl_clusterfit.models.weights import load_weights
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.true_labels import true_labels
from vissl_clusterfit.plugin.device import run_device
from vissl_clusterfit.plugin.engines.base import FEATURES_BLOCK, OUTPUT_FOLDERS, StageEngine
from vissl_clusterfit.plugin.extraction import extract_split
from vissl_clusterfit.plugin.training.checkpoints import LINK_NAME, latest_by_link
from vissl_clusterfit.report.results import RESULTS_NAME, ResultRow, record_scores
from vissl_clusterfit.storage.artifacts import file_sha256
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.transfer.metrics import clip_and_video_accuracy

logger = logging.getLogger(__name__)

_SPLIT = "TEST"
_SCORES = "scores"
_NAMES = WeightsSettings(
    weights="config.VIDEO_ACCURACY.WEIGHTS",
    key="config.VIDEO_ACCURACY.WEIGHTS, a file with this network alone",
    prefix="config.VIDEO_ACCURACY.WEIGHTS, a file with this network alone",
    trust=f"the environment variable {TRUST_VARIABLE}=1",
    model="config.MODEL",
)


@dataclass(frozen=True)
class VideoAccuracySettings:
    """The block ``config.VIDEO_ACCURACY``; a config need not have it."""

    #: The checkpoint of the trained network; "" for that of the run in ``config.CHECKPOINT.DIR``.
    weights: str = setting("")
    #: The name of the network in the results.
    model_name: str = setting("model")
    #: The share of clips that may be unreadable before the run stops.
    max_unreadable: float = setting(0.05, at_least=0.0, at_most=1.0)


class VideoAccuracyEngine(StageEngine):
    """Scores of the TEST split in the run's folder, accuracies in its ``results.json``."""

    settings_names: ClassVar[Mapping[str, str]] = {
        OUTPUT_FOLDERS: "config.CHECKPOINT.DIR",
        FEATURES_BLOCK + "MAX_UNREADABLE": "config.VIDEO_ACCURACY.MAX_UNREADABLE",
        FEATURES_BLOCK + "TRANSFORMS": "config.DATA.TEST.TRANSFORMS",
    }

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Scores every clip once, and appends clip and video accuracy to ``results.json``."""
        settings = read_settings(VideoAccuracySettings, cfg.get("VIDEO_ACCURACY") or {}, "config.VIDEO_ACCURACY")
        folder, data = artifact_path(checkpoint_folder), cfg.DATA[_SPLIT]
        weights = settings.weights or str(folder / (latest_by_link(folder, logger.warning) or LINK_NAME))
        labels = true_labels(cfg, _SPLIT)
        transforms = [AttrDict(transform).to_dict() for transform in data.TRANSFORMS]
        images = SplitImages(cfg, _SPLIT, transforms, setting=f"config.DATA.{_SPLIT}.TRANSFORMS")
        if images.clips is None or images.clips["PER"] != "clip":
            raise ConfigError(
                problem(
                    f"config.DATA.{_SPLIT}",
                    found="images" if images.clips is None else "CLIPS.PER: video",
                    allowed="a video source with CLIPS.PER: clip, and CLIPS.NUM_CLIPS clips of each video",
                )
            )
        if not artifact_path(weights).is_file():
            allowed = "the checkpoint of a trained network"
            raise DataError(problem(_NAMES.weights, found=f"{weights}, which does not exist", allowed=allowed))
        encoding = EncodingSettings(
            transforms=transforms, batch_size=data.BATCHSIZE_PER_REPLICA, max_unreadable=settings.max_unreadable
        )
        store = extract_split(
            cfg,
            images,
            lambda: {"encoder": _classifier_inputs(cfg, weights)},
            functools.partial(_classifier, cfg, weights),
            encoding,
            folder / _SCORES / _SPLIT.lower(),
        )
        distributed.on_primary(lambda: _append_accuracies(store, labels, images, settings, cfg, folder))

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The accuracies, and the class probabilities that they are of."""
        folder = artifact_path(checkpoint_folder)
        return {"scores": folder / RESULTS_NAME, "class probabilities": folder / _SCORES}


def _classifier_inputs(cfg: AttrDict, weights: str) -> dict[str, Any]:
    model = AttrDict(cfg.MODEL).to_dict()
    return {
        **{name.lower(): model[name] for name in ("TRUNK", "HEAD", "INPUT_TYPE", "FEATURE_EVAL_SETTINGS")},
        "weights_sha256": file_sha256(artifact_path(weights)),
        "scores": "softmax",
    }


def _classifier(cfg: AttrDict, weights: str, compute: Compute) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network with all of its weights, from clips (B, C, T, H, W) to probabilities (B, num_classes)."""
    device = run_device(cfg)
    model = AttrDict(copy.deepcopy(AttrDict(cfg.MODEL).to_dict()))
    model._MODEL_INIT_SEED = cfg.SEED_VALUE
    network = build_model(model, cfg.OPTIMIZER)
    state = load_state_dict(weights, trusted=os.environ.get(TRUST_VARIABLE) == "1", settings=_NAMES)
    load_weights(network.trunk, state, "trunk", weights, _NAMES)
    load_weights(network.heads, state, "head", weights, _NAMES)
    network.eval().requires_grad_(False).to(device)

    def classify(clips: torch.Tensor) -> torch.Tensor:
        outputs = network(clips)
        if len(outputs) != 1:
            raise ConfigError(problem("config.MODEL.HEAD.PARAMS", found=f"{len(outputs)} heads", allowed="one head"))
        return outputs[0].float().softmax(dim=1)

    return prepared(classify, network, device, compute)


def _append_accuracies(
    store: FeatureStore,
    labels: np.ndarray,
    images: SplitImages,
    settings: VideoAccuracySettings,
    cfg: AttrDict,
    folder: Path,
) -> None:
    clips: dict[str, Any] = images.clips or {}
    readable = np.setdiff1d(np.arange(store.num_samples), store.unreadable)
    videos = readable // clips["NUM_CLIPS"]
    accuracies = clip_and_video_accuracy(store.take(readable), labels[readable], videos, topk=(1, 5))
    protocol = (
        f"softmax of the network's head, averaged over crops and clips; clips {clips}; transforms "
        f"{cfg.DATA[_SPLIT].TRANSFORMS}; {len(np.unique(videos))} of {store.num_samples // clips['NUM_CLIPS']} videos"
    )
    rows = [
        ResultRow(
            model=settings.model_name,
            benchmark="video",
            dataset=" + ".join(cfg.DATA[_SPLIT].DATASET_NAMES),
            split=_SPLIT.lower(),
            metric=metric,
            value=value,
            protocol=protocol,
            seed=cfg.SEED_VALUE,
        )
        for metric, value in accuracies.items()
    ]
    record_scores(folder, rows)
