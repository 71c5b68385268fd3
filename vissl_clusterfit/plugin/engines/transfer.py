"""``engine_name: clusterfit_transfer``: how well the frozen features of a network serve classes that it never saw.

The network is ``config.MODEL`` with ``MODEL.WEIGHTS_INIT.PARAMS_FILE`` (none: an untrained network, as a control).
Features of both splits go into feature stores in the run's folder, scores into its ``results.json``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.layers import readable_share
from vissl_clusterfit.plugin.benchmarks.rows import is_untrained, model_in_rows
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.true_labels import labels_of_both
from vissl_clusterfit.plugin.device import run_device
from vissl_clusterfit.plugin.engines.base import FEATURES_BLOCK, OUTPUT_FOLDERS, StageEngine
from vissl_clusterfit.plugin.extraction import extract_split
from vissl_clusterfit.plugin.models.encoder import OF_WEIGHTS_INIT, EncoderBuilder, evaluated_spec
from vissl_clusterfit.plugin.models.layers import SETTING, layer_maps, rows_by_layer, side_by_side
from vissl_clusterfit.progress.step import followed_by
from vissl_clusterfit.report.results import RESULTS_NAME, ResultRow, record_scores
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.result_cache import ResultCache
from vissl_clusterfit.transfer.protocols import LabelledRows, check_labels, run_protocol
from vissl_clusterfit.transfer.settings import TransferSettings

logger = logging.getLogger(__name__)

_SPLITS = ("TRAIN", "TEST")
_FOR_CLIPS = {"linear", "knn"}


class TransferEngine(StageEngine):
    """Extracts features of TRAIN and TEST, then runs the protocols on them."""

    settings_names: ClassVar[Mapping[str, str]] = {
        OUTPUT_FOLDERS: "config.TRANSFER.FEATURES.PATH",
        FEATURES_BLOCK: "config.TRANSFER.FEATURES.",
    }

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Fits on TRAIN, scores on TEST once, and appends the rows to ``results.json``."""
        settings = TransferSettings.from_config(cfg.get("TRANSFER"))
        if is_untrained(cfg) and distributed.is_primary():
            logger.warning("config.MODEL.WEIGHTS_INIT.PARAMS_FILE is empty: the network is untrained, and rows say so.")
        labels = distributed.on_primary(functools.partial(_checked_labels, cfg, settings))
        rows = []
        for split, following in zip(_SPLITS, ("features of TEST", settings.protocols[0]), strict=True):
            with followed_by(following):
                rows.append(_split(cfg, split, labels[split], settings))
        train, test = rows
        _score(train, test, settings, artifact_path(checkpoint_folder), cfg)

    def results(self, cfg: AttrDict, checkpoint_folder: str) -> dict[str, Path | str]:
        """The scores, and the features that they are of."""
        features = artifact_path(TransferSettings.from_config(cfg.get("TRANSFER")).features.path)
        folders = {f"features of {split}": features / split.lower() for split in _SPLITS}
        return {"scores": artifact_path(checkpoint_folder) / RESULTS_NAME, **folders}


def _checked_labels(cfg: AttrDict, settings: TransferSettings) -> dict[str, np.ndarray]:
    labels = labels_of_both(cfg)
    check_labels(settings, labels["TRAIN"], labels["TEST"])
    return labels


def _split(cfg: AttrDict, split: str, labels: np.ndarray, settings: TransferSettings) -> dict[str, LabelledRows]:
    """What each layer has of a split; "" is the name of the only one that FEATURES.LAYER_NAME names."""
    encoding = settings.features
    images = SplitImages(
        cfg, split, encoding.transforms, num_clips=encoding.num_clips, setting="config.TRANSFER.FEATURES.TRANSFORMS"
    )
    of_clips = images.clips is not None and images.clips["PER"] == "clip"
    if of_clips and (others := sorted(set(settings.protocols) - _FOR_CLIPS)):
        found = f"{', '.join(others)}, and clips as samples"
        allowed = f"{', '.join(sorted(_FOR_CLIPS))}, or CLIPS.PER=video: clips of one video are no separate samples"
        raise ConfigError(problem("config.TRANSFER.PROTOCOLS", found=found, allowed=allowed))
    operations = list(cfg.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP)
    if operations and encoding.layer_name:
        found = f"{encoding.layer_name}, and layers in {SETTING}"
        raise ConfigError(problem("config.TRANSFER.FEATURES.LAYER_NAME", found=found, allowed="one of the two"))
    spec = evaluated_spec(cfg, encoding.layer_name, encoding.pooling, OF_WEIGHTS_INIT)
    maps = functools.partial(layer_maps, spec, operations, run_device(cfg))
    several = {"layers": operations} if operations else {}
    store = extract_split(
        cfg,
        images,
        lambda: {"encoder": {**spec.inputs(), **several}},
        (lambda compute: side_by_side(maps(compute))) if operations else EncoderBuilder(spec, run_device(cfg)),
        encoding,
        artifact_path(encoding.path, "config.TRANSFER.FEATURES.PATH") / split.lower(),
    )
    layers = rows_by_layer(store, [layer for layer, _ in operations] or [""], maps, images)
    readable = next(iter(layers.values())).samples
    videos = readable // images.clips["NUM_CLIPS"] if of_clips else None
    return {layer: LabelledRows(rows, labels[readable], videos) for layer, rows in layers.items()}


def _score(
    train: Mapping[str, LabelledRows],
    test: Mapping[str, LabelledRows],
    settings: TransferSettings,
    folder: Path,
    cfg: AttrDict,
) -> None:
    operations = dict(cfg.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP)
    for layer in train:
        cache = ResultCache(folder / "figures" / (layer or "features"), {"layer": layer})
        where = f"layer {settings.features.layer_name or 'trunk output'}, {settings.features.pooling} pooling; "
        if layer:
            name, arguments = operations[layer]
            where = f"layer {layer}, {name}({', '.join(map(str, arguments))}), flattened; "
        where += readable_share(train[layer].features, test[layer].features)
        for protocol, following in zip(settings.protocols, [*settings.protocols[1:], ""], strict=True):
            with followed_by(following):
                scores = run_protocol(protocol, train[layer], test[layer], settings, cache, run_device(cfg))
            rows = [
                ResultRow(
                    model=model_in_rows(cfg, settings.model_name),
                    benchmark=f"{score.benchmark}, {layer}" if layer else score.benchmark,
                    dataset=settings.dataset_name,
                    split="test",
                    metric=score.metric,
                    value=score.value,
                    protocol=where + score.protocol,
                    seed=cfg.SEED_VALUE,
                )
                for score in scores
            ]
            if distributed.is_primary():
                record_scores(folder, rows)
