"""``engine_name: clusterfit_video_accuracy``: a trained network with its head, on several clips and crops per video.

The softmax of its output is averaged over the crops of a clip, then over the clips of a video. Clips and crops are
those of ``config.DATA.TEST.CLIPS`` (``PER: clip``) and of the transforms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.adapters.dataset import SplitImages, true_labels
from vissl_clusterfit.adapters.encoder import HEAD_LAYER, EncoderSpec, build_encoder
from vissl_clusterfit.adapters.engines import StageEngine
from vissl_clusterfit.adapters.stages import run_device
from vissl_clusterfit.config import EncodingSettings
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.report.results import RESULTS_NAME, ResultRow, append_results
from vissl_clusterfit.settings import read_settings, setting
from vissl_clusterfit.storage.places import artifact_path
from vissl_clusterfit.transfer.clips import clip_and_video_accuracy

logger = logging.getLogger(__name__)

_SPLIT = "TEST"


@dataclass(frozen=True)
class VideoAccuracySettings:
    """The block ``config.VIDEO_ACCURACY``."""

    #: The name of the network in the results.
    model_name: str = setting("model")
    #: The name of the data in the results.
    dataset_name: str = setting("dataset")
    #: How scores are computed and kept. LAYER_NAME and POOLING have no part.
    features: EncodingSettings = field(default_factory=EncodingSettings)


class VideoAccuracyEngine(StageEngine):
    """Scores of the TEST split in the run's folder, figures in its ``results.json``."""

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Scores every clip once, and appends clip and video accuracy to ``results.json``."""
        settings = _settings(cfg)
        labels = true_labels(cfg, _SPLIT)
        images = SplitImages(cfg, _SPLIT, settings.features.transforms)
        if images.clips is None or images.clips["PER"] != "clip":
            raise ConfigError(
                problem(
                    f"config.DATA.{_SPLIT}",
                    found="images" if images.clips is None else "CLIPS.PER: video",
                    allowed="a video source with CLIPS.PER: clip, and CLIPS.NUM_CLIPS clips of each video",
                )
            )
        spec = EncoderSpec(
            model=cfg.MODEL,
            weights=cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE or None,
            state_dict_key="",
            trust_weights=False,
            layer=HEAD_LAYER,
            pooling="avg",
            seed=cfg.SEED_VALUE,
        )
        inputs = distributed.on_primary(
            lambda: {
                "dataset": images.inputs(),
                "encoder": {**spec.inputs(), "scores": "softmax"},
                "transforms": settings.features.transforms,
                "dtype": settings.features.dtype,
                **images.clip_inputs(),
            }
        )
        store = extract_features(
            images,
            lambda: _softmax_of(build_encoder(spec, run_device(cfg))),
            _scores_folder(settings),
            inputs,
            settings.features,
            num_workers=cfg.DATA.NUM_DATALOADER_WORKERS,
        )

        def score() -> None:
            readable = np.setdiff1d(np.arange(store.num_samples), store.unreadable)
            videos = readable // images.clips["NUM_CLIPS"]
            accuracies = clip_and_video_accuracy(store.take(readable), labels[readable], videos, topk=(1, 5))
            protocol = (
                f"softmax of the network's head, averaged over crops and clips; clips {images.clips}; "
                f"transforms {settings.features.transforms}; {len(np.unique(videos))} videos that can be read"
            )
            _append(accuracies, protocol, settings, cfg, artifact_path(checkpoint_folder))

        distributed.on_primary(score)

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The figures, and the scores that they are of."""
        return {"figures": artifact_path(checkpoint_folder) / RESULTS_NAME, "scores": _scores_folder(_settings(cfg))}


def _settings(cfg: AttrDict) -> VideoAccuracySettings:
    return read_settings(VideoAccuracySettings, cfg.get("VIDEO_ACCURACY"), "config.VIDEO_ACCURACY")


def _scores_folder(settings: VideoAccuracySettings) -> Path:
    return artifact_path(settings.features.path, "config.VIDEO_ACCURACY.FEATURES.PATH") / _SPLIT.lower()


def _softmax_of(encode: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda clips: encode(clips).softmax(dim=1)


def _append(
    accuracies: dict[str, float], protocol: str, settings: VideoAccuracySettings, cfg: AttrDict, folder: Path
) -> None:
    rows = [
        ResultRow(
            model=settings.model_name,
            benchmark="video",
            dataset=settings.dataset_name,
            split=_SPLIT.lower(),
            metric=metric,
            value=value,
            protocol=protocol,
            seed=cfg.SEED_VALUE,
        )
        for metric, value in accuracies.items()
    ]
    append_results(folder, rows)
    for row in rows:
        logger.info("%s of %s on %s: %.1f %%.", row.metric, row.model, row.dataset, 100 * row.value)
