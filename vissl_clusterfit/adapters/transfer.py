"""``engine_name: clusterfit_transfer``: how well the frozen features of a network serve classes that it never saw.

The network is ``config.MODEL`` with ``MODEL.WEIGHTS_INIT.PARAMS_FILE`` (none: an untrained network, as a control).
Features of both splits go into feature stores in the run's folder, figures into its ``results.json``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.adapters.dataset import SplitImages, true_labels
from vissl_clusterfit.adapters.encoder import EncoderSpec, build_encoder
from vissl_clusterfit.adapters.engines import StageEngine
from vissl_clusterfit.adapters.stages import run_device
from vissl_clusterfit.config import EncodingSettings
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.report.results import RESULTS_NAME, ResultRow, append_results
from vissl_clusterfit.settings import read_settings, setting
from vissl_clusterfit.storage.places import artifact_path
from vissl_clusterfit.transfer.clips import clip_and_video_accuracy
from vissl_clusterfit.transfer.knn import KnnSettings, knn_accuracy
from vissl_clusterfit.transfer.linear import LinearProbeSettings, linear_probe

logger = logging.getLogger(__name__)

_PROTOCOLS = ("linear", "knn")


@dataclass(frozen=True)
class TransferSettings:
    """The block ``config.TRANSFER``."""

    #: The name of the network in the results.
    model_name: str = setting("model")
    #: The name of the data in the results.
    dataset_name: str = setting("dataset")
    #: Which protocols to run.
    protocols: list = setting(list(_PROTOCOLS))
    features: EncodingSettings = field(default_factory=EncodingSettings)
    linear: LinearProbeSettings = field(default_factory=LinearProbeSettings)
    knn: KnnSettings = field(default_factory=KnnSettings)

    @classmethod
    def from_config(cls, block: object) -> TransferSettings:
        """Reads ``config.TRANSFER``.

        Raises:
            ConfigError: naming every unknown key and bad value.
        """
        settings = read_settings(cls, block, "config.TRANSFER")
        unknown = sorted(set(settings.protocols) - set(_PROTOCOLS))
        if unknown or not settings.protocols:
            allowed = "one or more of " + ", ".join(_PROTOCOLS)
            raise ConfigError(problem("config.TRANSFER.PROTOCOLS", found=settings.protocols, allowed=allowed))
        for key, name in (("MODEL_NAME", settings.model_name), ("DATASET_NAME", settings.dataset_name)):
            if not name:
                raise ConfigError(problem(f"config.TRANSFER.{key}", found="nothing", allowed="a name for the results"))
        return settings


@dataclass(frozen=True)
class _Split:
    """Features and labels of the samples of one split that could be read."""

    features: np.ndarray
    labels: np.ndarray
    videos: np.ndarray | None  # which each sample is of, where samples are clips


class TransferEngine(StageEngine):
    """Extracts features of TRAIN and TEST, then runs the protocols on them."""

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Fits on TRAIN, scores on TEST once, and appends the rows to ``results.json``."""
        settings = TransferSettings.from_config(cfg.get("TRANSFER"))
        train, test = (_labelled_features(cfg, split, settings.features) for split in ("TRAIN", "TEST"))
        distributed.on_primary(lambda: _score(train, test, settings, artifact_path(checkpoint_folder), cfg))

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The figures, and the features that they are of."""
        features = artifact_path(TransferSettings.from_config(cfg.get("TRANSFER")).features.path)
        folders = {f"features of {split}": features / split.lower() for split in ("TRAIN", "TEST")}
        return {"figures": artifact_path(checkpoint_folder) / RESULTS_NAME, **folders}


def _labelled_features(cfg: AttrDict, split: str, settings: EncodingSettings) -> _Split:
    labels = true_labels(cfg, split)
    images = SplitImages(cfg, split, settings.transforms, num_clips=settings.num_clips)
    spec = EncoderSpec(
        model=cfg.MODEL,
        weights=cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE or None,
        state_dict_key="",
        trust_weights=False,
        layer=settings.layer_name,
        pooling=settings.pooling,
        seed=cfg.SEED_VALUE,
    )
    inputs = distributed.on_primary(
        lambda: {
            "dataset": images.inputs(),
            "encoder": spec.inputs(),
            "transforms": settings.transforms,
            "dtype": settings.dtype,
            **images.clip_inputs(),
        }
    )
    store = extract_features(
        images,
        lambda: build_encoder(spec, run_device(cfg)),
        artifact_path(settings.path, "config.TRANSFER.FEATURES.PATH") / split.lower(),
        inputs,
        settings,
        num_workers=cfg.DATA.NUM_DATALOADER_WORKERS,
    )
    readable = np.setdiff1d(np.arange(store.num_samples), store.unreadable)
    of_clips = images.clips is not None and images.clips["PER"] == "clip"
    videos = readable // images.clips["NUM_CLIPS"] if of_clips else None
    return _Split(store.take(readable), labels[readable], videos)


def _score(train: _Split, test: _Split, settings: TransferSettings, folder: Path, cfg: AttrDict) -> None:
    figures: dict[tuple[str, str], tuple[float, str]] = {}
    of_sample = "top-1 accuracy" if test.videos is None else "clip top-1 accuracy"
    if "linear" in settings.protocols:
        probe = linear_probe(train.features, train.labels, test.features, test.labels, settings.linear)
        figures["linear", of_sample] = (probe.accuracy, settings.linear.protocol())
        if test.videos is not None:
            name, protocol = "video top-1 accuracy", f"{settings.linear.protocol()}; probabilities averaged over clips"
            scores = np.zeros((len(test.labels), int(probe.classes.max()) + 1))
            scores[:, probe.classes] = probe.probabilities
            accuracies = clip_and_video_accuracy(scores, test.labels, test.videos)
            figures["linear", name] = (accuracies[name], protocol)
    if "knn" in settings.protocols:
        accuracy = knn_accuracy(
            test.features, test.labels, train.features, train.labels, settings.knn, device=run_device(cfg)
        )
        figures["knn", of_sample] = (accuracy, settings.knn.protocol())
    where = f"layer {settings.features.layer_name or 'trunk output'}, {settings.features.pooling} pooling; "
    rows = [
        ResultRow(
            model=settings.model_name,
            benchmark=name,
            dataset=settings.dataset_name,
            split="test",
            metric=metric,
            value=value,
            protocol=where + protocol,
            seed=cfg.SEED_VALUE,
        )
        for (name, metric), (value, protocol) in figures.items()
    ]
    append_results(folder, rows)
    for row in rows:
        logger.info("%s of %s on %s: %.1f %% %s.", row.benchmark, row.model, row.dataset, 100 * row.value, row.metric)
