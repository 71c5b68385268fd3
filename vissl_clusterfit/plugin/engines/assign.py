"""``engine_name: clusterfit_assign``: labels for any data from a codebook that was made before.

The codebook knows what it was made from. Trunk, layer, pooling and transforms are taken from its manifest; the weights
must be those of its teacher, to the byte. Needed are only the codebook, the weights and the data.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.compute.choose import candidates
from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.compute import AUTO
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.sample_list import require_same_samples
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.drift import clustered_distances, describe_drift
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels, label_inputs
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.device import run_device
from vissl_clusterfit.plugin.engines.base import PipelineEngine
from vissl_clusterfit.plugin.extraction import extract_split, feature_provenance
from vissl_clusterfit.plugin.models.encoder import EncoderBuilder, EncoderSpec, teacher_spec
from vissl_clusterfit.plugin.models.library_network import require_no_code
from vissl_clusterfit.plugin.stages import make_together
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)


class AssignEngine(PipelineEngine):
    """Labels of ``FEATURES.DATA_PARTITION``, and of ``TEST_PARTITION`` if there is one, under ``OUTPUT_DIR/labels``."""

    def make(self, cfg: AttrDict, settings: ClusterFitConfig) -> None:
        """Extracts with the codebook's teacher, then labels; says how much of the data is unlike the codebook's."""
        if not settings.assign.codebook:
            raise ConfigError(
                problem(
                    "config.CLUSTERFIT.ASSIGN.CODEBOOK",
                    found="nothing",
                    allowed="the folder of a codebook, for example <OUTPUT_DIR of its run>/codebook",
                )
            )
        codebook = Codebook.open(artifact_path(settings.assign.codebook))
        for split in settings.splits:
            labels = _labels(cfg, settings, codebook, split)
            logger.info("%s: labels of %d samples in %s.", split, labels.num_samples, labels.folder)
            if distributed.is_primary():
                logger.info("%s", describe_drift(labels, clustered_distances(codebook)))

    def made(self, settings: ClusterFitConfig) -> Iterator[tuple[str, Path]]:
        """The labels of each split."""
        for split in settings.splits:
            yield f"labels of {split}", settings.paths.labels(split)


def _labels(cfg: AttrDict, settings: ClusterFitConfig, codebook: Codebook, split: str) -> PseudoLabels:
    made_from: Mapping[str, Any] = codebook.manifest["inputs"]["features"]
    keep_names = settings.features.keep_names
    images = SplitImages(cfg, split, made_from["transforms"], clips=made_from.get("clips"), keep_names=keep_names)
    spec = _spec(cfg, settings, made_from["teacher"])
    found = distributed.on_primary(spec.inputs)
    remedy = (
        "Name the weights of its teacher (config.CLUSTERFIT.TEACHER), leave COMPUTE.PRECISION at auto, or name another "
        "codebook (ASSIGN.CODEBOOK)."
    )
    compute = Compute.of_inputs(made_from)
    asked = candidates(settings.compute, "cpu")[0] if settings.compute.precision != AUTO else compute
    artifacts.require_same_inputs(
        codebook.folder,
        {"teacher": made_from["teacher"], **compute.inputs()},
        {"teacher": found, **asked.inputs()},
        remedy=remedy,
    )
    encoding = dataclasses.replace(settings.features, transforms=made_from["transforms"], dtype=made_from["dtype"])
    data = (images, lambda: {"teacher": made_from["teacher"]})
    inputs = feature_provenance(*data, encoding, compute)
    folder, max_distance = settings.paths.labels(split), distributed.on_primary(lambda: _limit(settings, codebook))
    top_clusters = settings.top_clusters
    expected = label_inputs(inputs, codebook.manifest["inputs"], max_distance, top_clusters)
    distributed.on_primary(lambda: require_same_samples(folder, images.samples, images.name_of))
    if not distributed.on_primary(lambda: artifacts.has_manifest(folder)):
        features = settings.paths.features(split)
        build = EncoderBuilder(spec, run_device(cfg))
        store = extract_split(cfg, *data, build, encoding, features, compute)

        def label() -> None:
            device = run_device(cfg).type
            label_store(store, codebook, device, folder, max_distance=max_distance, top_clusters=top_clusters)

        make_together(folder, "Labelling", label, lambda: artifacts.has_manifest(folder))
    return PseudoLabels.open(folder, expected)


def _limit(settings: ClusterFitConfig, codebook: Codebook) -> float | None:
    """The squared distance beyond which a sample gets no label; None for no limit."""
    if settings.assign.percentile is None:
        return settings.assign.limit
    distances = clustered_distances(codebook)
    if distances is None:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.ASSIGN.MAX_DISTANCE",
                found=f"{settings.assign.max_distance}, and no labels of the clustered split beside {codebook.folder}",
                allowed="a squared distance, or the folder of the codebook with the labels of its run beside it",
            )
        )
    return float(np.percentile(distances, settings.assign.percentile))


def _spec(cfg: AttrDict, settings: ClusterFitConfig, teacher: Mapping[str, Any]) -> EncoderSpec:
    """The codebook's teacher, as its manifest describes it, with the weights that this run names."""
    require_no_code(teacher["trunk"], f"the manifest of {settings.assign.codebook}")
    model = {**cfg.MODEL, "TRUNK": AttrDict(teacher["trunk"]), "INPUT_TYPE": teacher["input_type"]}
    if "head" in teacher:
        model["HEAD"] = AttrDict({**cfg.MODEL.HEAD, "PARAMS": teacher["head"]})
    features = dataclasses.replace(settings.features, layer_name=teacher["layer"], pooling=teacher["pooling"])
    return teacher_spec(model, dataclasses.replace(settings.teacher, model={}), features)
