"""What the benchmarks on features share: the layers that a config evaluates, both splits' features, rows of results."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vissl.config import AttrDict
from vissl.models.model_helpers import get_trunk_output_feature_names

from vissl_clusterfit import distributed
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.layers import LayerRows, readable_share
from vissl_clusterfit.plugin.benchmarks.rows import BenchmarkSettings, common_fields
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.true_labels import labels_of_both
from vissl_clusterfit.plugin.device import run_device
from vissl_clusterfit.plugin.engines.base import FEATURES_BLOCK, OUTPUT_FOLDERS
from vissl_clusterfit.plugin.extraction import SplitSource, extract_split
from vissl_clusterfit.plugin.models.encoder import (
    HEAD_LAYER,
    OF_WEIGHTS_INIT,
    EncoderBuilder,
    evaluated_spec,
)
from vissl_clusterfit.plugin.models.layers import SETTING, layer_maps, rows_by_layer, side_by_side
from vissl_clusterfit.report.results import ResultRow, record_scores
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.result_cache import ResultCache
from vissl_clusterfit.transfer.protocols import LabelledRows, Score, check_labels, run_protocol
from vissl_clusterfit.transfer.settings import TransferSettings

logger = logging.getLogger(__name__)

#: The name of the output of the trunk, where a config asks for a head that was trained on pseudo-labels.
TRUNK = "trunk"


#: What the benchmarks call the settings that shared code names.
SETTINGS_NAMES = {
    OUTPUT_FOLDERS: "config.CHECKPOINT.DIR",
    FEATURES_BLOCK + "MAX_UNREADABLE": "config.BENCHMARK.MAX_UNREADABLE",
    FEATURES_BLOCK + "TRANSFORMS": "config.DATA.<split>.TRANSFORMS",
}


class BenchmarkRun:
    """The network of ``config.MODEL`` and what the benchmark engines do with it.

    Every method is called by all processes together.
    """

    def __init__(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        self.cfg = cfg
        self.settings = BenchmarkSettings.from_config(cfg)
        self.folder: Path = artifact_path(checkpoint_folder)
        self.device = run_device(cfg)
        self.layers: list[str] = list(get_trunk_output_feature_names(cfg.MODEL)) or [HEAD_LAYER]
        layer = HEAD_LAYER if self.layers == [HEAD_LAYER] else ""
        self.spec = evaluated_spec(cfg, layer, "avg", dataclasses.replace(OF_WEIGHTS_INIT, layer=SETTING))
        if self.spec.layer == HEAD_LAYER and distributed.on_primary(self._has_cluster_head):
            self.layers = [TRUNK]
            self.spec = dataclasses.replace(self.spec, layer="")
            if distributed.is_primary():
                logger.warning(
                    "%s has no projection head, only the classifier of pseudo-labels: the features are the output of "
                    "its trunk.",
                    self.spec.weights,
                )

    def _has_cluster_head(self) -> bool:
        """Whether all heads in the file are those of a ClusterFit student."""
        if not self.spec.weights:
            return False
        heads = [name for name in self.spec.state_dict() if name.startswith("heads.")]
        return bool(heads) and all(".classifiers." in name for name in heads)

    def labels(self) -> dict[str, np.ndarray]:
        """The labels of both splits, int64: one class per sample (N,), or one target per sample and class (N, C).

        Raises:
            ConfigError: a split names no labels, or DATA_LIMIT asks for a part of it.
            DataError: a label file is missing, is none, or does not fit its split or the other one.
        """
        for split in ("TRAIN", "TEST"):
            limit, name = self.cfg.DATA[split].DATA_LIMIT, f"config.DATA.{split}"
            if limit >= 0:
                remedy = "Name a smaller data set, with DATA_PATHS and LABEL_PATHS."
                found = f"{limit}, for an engine that takes the whole split"
                raise ConfigError(problem(f"{name}.DATA_LIMIT", found=found, allowed="-1", remedy=remedy))
        return labels_of_both(self.cfg)

    def images(self, split: str) -> SplitImages:
        """The images of a split, with the transforms that the config names for it."""
        return SplitImages(self.cfg, split, self._transforms(split), setting=f"config.DATA.{split}.TRANSFORMS")

    def _transforms(self, split: str) -> list:
        return [AttrDict(transform).to_dict() for transform in self.cfg.DATA[split].TRANSFORMS]

    def features(self, split: str, images: SplitSource, *, name: str = "") -> dict[str, LayerRows]:
        """The features of a split, layer by layer.

        Args:
            split: TRAIN or TEST.
            images: the whole split, or some of it.
            name: of the store, that of the split if empty.
        """
        encoding = EncodingSettings(
            path=str(self.folder / "features"),
            transforms=self._transforms(split),
            batch_size=self.cfg.DATA[split].BATCHSIZE_PER_REPLICA,
            shard_size=self.settings.shard_size,
            max_unreadable=self.settings.max_unreadable,
        )
        folder = self.folder / "features" / (name or split.lower())
        store = extract_split(self.cfg, images, self._encoder_inputs, self._encoder, encoding, folder)
        return rows_by_layer(store, self.layers, self.layer_maps, images)

    def _encoder_inputs(self) -> dict[str, Any]:
        return {"encoder": {**self.spec.inputs(), "layers": self._layer_operations()}}

    def _layer_operations(self) -> list:
        if self.layers in ([HEAD_LAYER], [TRUNK]):
            return list(self.layers)
        return copy.deepcopy(list(self.cfg.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP))

    @functools.cached_property
    def _builder(self) -> EncoderBuilder:
        return EncoderBuilder(self.spec, self.device)

    def _encoder(self, compute: Compute) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.layers in ([HEAD_LAYER], [TRUNK]):
            return self._builder(compute)
        return side_by_side(self.layer_maps(compute))

    def layer_maps(self, compute: Compute = PLAIN) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        """A function from images to the pooled layers, as VISSL's feature extractor gives them before it flattens."""
        return layer_maps(self.spec, self._layer_operations(), self.device, compute)

    def run_protocol(self, name: str, title: str, settings: TransferSettings, labels: Mapping[str, np.ndarray]) -> None:
        """Runs one of the protocols of ``clusterfit_transfer`` on each layer, and records its scores.

        Args:
            name: of the protocol.
            title: what rows call it.
            settings: of the protocol, translated from VISSL's block.
            labels: of both splits.

        Raises:
            ConfigError: settings that do not go with the data.
            DataError: labels or features that the protocol cannot take.
        """
        distributed.on_primary(lambda: check_labels(settings, labels["TRAIN"], labels["TEST"]))
        features = {split: self.features(split, self.images(split)) for split in ("TRAIN", "TEST")}
        for layer in self.layers:
            train, test = (
                LabelledRows(rows[layer], labels[split][rows[layer].samples]) for split, rows in features.items()
            )
            cache = ResultCache(self.folder / name / layer, {"layer": layer})
            where = self.describe_features(layer, train.features, test.features)
            scores = [
                dataclasses.replace(score, benchmark=f"{title}, {layer}", protocol=where + score.protocol)
                for score in run_protocol(name, train, test, settings, cache, self.device)
            ]
            if distributed.is_primary():
                self.record(scores)

    def record(self, scores: Sequence[Score], dataset: str = "") -> None:
        """Adds scores to ``results.json``.

        Args:
            scores: as rows have them.
            dataset: the name of the data where no setting gives one; DATASET_NAMES of the test split if empty.
        """
        common = common_fields(self.cfg, self.settings, dataset)
        record_scores(self.folder, [ResultRow(**common, **dataclasses.asdict(score)) for score in scores])

    def describe_features(self, layer: str, train: LayerRows | None = None, test: LayerRows | None = None) -> str:
        """The beginning of a protocol: where the features come from, and how many samples could be read."""
        if layer == HEAD_LAYER:
            where = "output of the head"
        elif layer == TRUNK:
            where = "output of the trunk"
        else:
            operation = next(what for name, what in self._layer_operations() if name == layer)
            where = f"layer {layer}, {operation[0]}({', '.join(map(str, operation[1]))}), flattened"
        return f"{where}; " + (readable_share(train, test) if train is not None and test is not None else "")
