"""What is meant by the place that a command names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vissl_clusterfit.errors import ArtifactError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.storage.artifacts import has_manifest, read_array
from vissl_clusterfit.verification.verify import find_artifacts

#: What a proposed number of clusters gives each, and the paper's number, which is the largest.
_SAMPLES_PER_CLUSTER, _MOST_CLUSTERS = 50, 16_000


def labels_in(folder: Path) -> Path:
    """The folder itself, or of a run the labels of the split that it was clustered on.

    Raises:
        ArtifactError: there are none, or several.
    """
    if has_manifest(folder):
        return folder
    found = [place for place in find_artifacts(folder) if place.parent.name == "labels" or place.name == "labels"]
    trained_on = [place for place in found if place.name == "train"] or found
    if len(trained_on) == 1:
        return trained_on[0]
    listed = ", ".join(map(str, trained_on)) or "no pseudo-labels below it"
    allowed = "a folder of pseudo-labels, or of a run that has made one set for the data that it was clustered on"
    raise ArtifactError(problem(str(folder), found=listed, allowed=allowed))


def clustering_of(store: FeatureStore) -> list[object]:
    """The command that clusters features, with as many clusters as give each about fifty samples."""
    num_clusters = max(2, min(store.num_samples // _SAMPLES_PER_CLUSTER, _MOST_CLUSTERS))
    return ["cluster", store.folder, store.folder.with_name("codebook"), "--num-clusters", num_clusters]


def report_on(labels: Path) -> list[object]:
    """The command that shows the clusters of labels: with what they were made from, where it lies beside them."""
    is_whole = any(has_manifest(labels.with_name(name)) for name in ("features", "codebook"))
    return ["report", labels.parent if is_whole else labels]


def features_in(place: str) -> np.ndarray | str:
    """The rows of a ``.npy`` file, mapped; or the place itself, of a feature store."""
    return read_array(Path(place), mmap=True) if place.endswith(".npy") else place
