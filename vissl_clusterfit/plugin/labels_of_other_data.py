"""Refuses labels of other data, another number of clusters or another codebook than those of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.sample_list import require_same_samples
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.targets import require_targets
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.storage import artifacts


def open_labels(
    split: str, settings: ClusterFitConfig, images: SplitImages, inputs: Callable[[], Mapping[str, Any]]
) -> PseudoLabels:
    """Opens the labels of a split. Called by all processes together.

    Args:
        split: ``TRAIN`` or ``TEST``.
        settings: of the run.
        images: of the split.
        inputs: what this run would make the labels from; not called where the run names no teacher.

    Raises:
        ArtifactError: they are those of other samples, inputs or centroids; naming the differences. Or they lack what
            the targets are made of.
    """
    folder = settings.paths.labels(split)
    require_targets(PseudoLabels.open(folder), settings.targets)
    if os.environ.get("LOCAL_RANK", "0") == "0":  # each node may have its own copy of the data
        require_same_samples(folder, images.samples, images.name_of)
    if not settings.teacher.weights:  # labels of another run, without their teacher
        return open_labels_of_others(folder, distributed.on_primary(images.inputs), settings)
    labels = PseudoLabels.open(folder, inputs())
    codebook = settings.paths.codebook
    if artifacts.has_manifest(codebook) and Codebook.open(codebook).content_hash != labels.codebook_hash:
        raise ArtifactError(
            f"{folder} was made with another codebook than the one in {codebook}. Move the labels away to make them "
            "again from this codebook."
        )
    return labels


def open_labels_of_others(
    folder: Path, dataset: Mapping[str, Any], settings: ClusterFitConfig | None = None
) -> PseudoLabels:
    """Opens labels that another run made.

    Args:
        folder: of the labels.
        dataset: what identifies the data of this run.
        settings: of this run, where the number of clusters must be its own, too.

    Raises:
        ArtifactError: they are of other data, or have another number of clusters.
    """
    labels = PseudoLabels.open(folder)
    found: dict[str, Any] = {"dataset": labels.inputs["features"]["dataset"]}
    expected: dict[str, Any] = {"dataset": dataset}
    if settings:
        found["num_clusters"], expected["num_clusters"] = list(labels.num_clusters), [settings.num_clusters]
        if settings.top_clusters > 1 and not settings.targets.of_nearest:
            found["top_clusters"], expected["top_clusters"] = labels.top_clusters, settings.top_clusters
    artifacts.require_same_inputs(folder, found, expected)
    return labels
