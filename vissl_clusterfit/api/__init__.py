"""What a notebook calls: from features to a codebook, to labels, and to what can be said of them.

Each function that takes a folder makes an artefact there, or opens the one that was made from the same inputs; one
of other inputs is refused, never written over. Everything runs in this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering import codebook as codebooks
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, ConfigError, problem
from vissl_clusterfit.features import store as stores
from vissl_clusterfit.features.arrays import ArrayFeatures
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels import comparison, pseudo_labels
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels, label_inputs
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.verification.verify import find_artifacts, verify_artifacts

Place = str | Path

_OPEN: Mapping[str, Any] = {
    stores.KIND: FeatureStore.open,
    codebooks.KIND: Codebook.open,
    pseudo_labels.KIND: PseudoLabels.open,
}
# What a setting of a run is called here, the longest names first.
_NAMES = {
    "config.CLUSTERFIT.FEATURES.DIMENSIONALITY_REDUCTION": "num_components",
    "config.CLUSTERFIT.FEATURES.WHITEN": "whiten",
    "config.CLUSTERFIT.FEATURES.NORMALIZE": "normalize",
    "config.CLUSTERFIT.REFINEMENT_ITERATIONS": "refinement_iterations",
    "config.CLUSTERFIT.NUM_COARSE_CLUSTERS": "num_coarse_clusters",
    "config.CLUSTERFIT.MAX_CLUSTER_SIZE": "max_cluster_size",
    "config.CLUSTERFIT.CLUSTER_BACKEND": "backend",
    "config.CLUSTERFIT.TOP_CLUSTERS": "top_clusters",
    "config.CLUSTERFIT.NUM_CLUSTERS": "num_clusters",
    "config.CLUSTERFIT.NUM_ITER": "num_iter",
    "config.CLUSTERFIT.TIME_LIMIT": "time_limit",
    "config.CLUSTERFIT.METRIC": "metric",
    "config.CLUSTERFIT.START": "start",
    "config.CLUSTERFIT.SEED": "seed",
    "config.MACHINE.DEVICE": "device",
    "CLUSTERFIT.OUTPUT_DIR, CLUSTERFIT.FEATURES.PATH": "folder",
    "DIMENSIONALITY_REDUCTION": "num_components",
    "NUM_COARSE_CLUSTERS": "num_coarse_clusters",
    "NUM_CLUSTERS": "num_clusters",
}


def make_codebook(
    features: np.ndarray | FeatureStore | Place,
    folder: Place,
    num_clusters: int,
    *,
    metric: str = "l2",
    num_iter: int = 50,
    time_limit: float = 0.0,
    seed: int = 0,
    start: str = "k-means++",
    normalize: bool = True,
    num_components: int = 0,
    whiten: bool = False,
    num_coarse_clusters: int = 0,
    refinement_iterations: int = 4,
    backend: str = "torch",
    device: str = "cpu",
) -> Codebook:
    """Clusters features. One that was stopped resumes after its last iteration.

    Args:
        features: (N, D), an array or a memory map; a feature store, or its folder.
        folder: of the codebook.
        num_clusters: K.
        metric: "l2", or "cosine" for spherical k-means.
        num_iter: the largest number of iterations.
        time_limit: seconds, from which on no iteration begins that would end later; 0 for none.
        seed: draws the first centroids.
        start: "k-means++", "random", "hierarchical", or the folder of a codebook to go on from.
        normalize: scale features to unit norm first.
        num_components: of a PCA; 0 for none.
        whiten: scale the components to unit variance.
        num_coarse_clusters: C, to cluster on two levels; 0 for one.
        refinement_iterations: of all K clusters at once, after two levels.
        backend: "torch", or "faiss".
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a setting is not what it must be.
        DataError: features are not what they must be.
        ArtifactError: the folder holds a codebook of other features or settings, or cannot be written.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import make_codebook
        >>> points = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], dtype=np.float32)
        >>> codebook = make_codebook(points, "run/codebook", num_clusters=2, normalize=False)
        >>> sorted(codebook.centroids.tolist())
        [[0.0, 1.0], [10.0, 1.0]]
    """
    store, place = _features(features), artifact_path(str(folder), "folder")
    block = {
        "NUM_CLUSTERS": num_clusters,
        "NUM_COARSE_CLUSTERS": num_coarse_clusters,
        "REFINEMENT_ITERATIONS": refinement_iterations,
        "NUM_ITER": num_iter,
        "TIME_LIMIT": time_limit,
        "SEED": seed,
        "METRIC": metric,
        "START": start,
        "CLUSTER_BACKEND": backend,
        "FEATURES": {"NORMALIZE": normalize, "DIMENSIONALITY_REDUCTION": num_components, "WHITEN": whiten},
    }
    with _settings_as_arguments():
        settings = ClusterFitConfig.from_block(block)
        if artifacts.has_manifest(place):
            made = Codebook.open(place, codebook_inputs(store.inputs, settings, place))
            _require_made_from(made.folder, made.manifest["features_hash"], store.content_hash, "features")
            return made
        return fit_codebook(store, settings, device, place)


def make_labels(
    features: np.ndarray | FeatureStore | Place,
    codebook: Codebook | Place,
    folder: Place,
    *,
    max_distance: float | None = None,
    top_clusters: int = 1,
    max_cluster_size: float = 0.0,
    device: str = "cpu",
) -> PseudoLabels:
    """Labels every sample, on disk, in memory that does not grow with their number.

    Args:
        features: those that were clustered, or others of the same kind: an array, a store, or its folder.
        codebook: the clusters, or their folder.
        folder: of the labels.
        max_distance: samples whose squared distance is larger get no label (-1); None labels all.
        top_clusters: T; with more than 1, the T nearest clusters are kept, too.
        max_cluster_size: how much larger than the mean a cluster may be, from 1; 0 for no bound.
        device: "cpu" or "cuda".

    Raises:
        ConfigError, DataError, ArtifactError: as :func:`make_codebook`.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import make_codebook, make_labels
        >>> points = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], dtype=np.float32)
        >>> codebook = make_codebook(points, "run/codebook", num_clusters=2, normalize=False)
        >>> labels = make_labels(points, codebook, "run/labels")
        >>> bool(labels.labels[0] == labels.labels[1] != labels.labels[2])
        True
        >>> np.asarray(labels.distances), np.asarray(labels.margins)
        (array([1., 1., 1., 1.], dtype=float32), array([100., 100., 100., 100.], dtype=float32))
    """
    store, made, place = _features(features), _codebook(codebook), artifact_path(str(folder), "folder")
    if max_cluster_size and not 1 <= max_cluster_size < np.inf:
        raise ConfigError(problem("max_cluster_size", found=max_cluster_size, allowed="0 for no bound, or 1 or more"))
    if max_cluster_size and max_distance is not None:
        found = "both max_cluster_size and max_distance"
        raise ConfigError(problem("max_cluster_size", found=found, allowed="one of them"))
    if top_clusters < 1:
        raise ConfigError(problem("top_clusters", found=top_clusters, allowed=f"1 to {made.num_clusters}"))
    inputs = label_inputs(store.inputs, made.manifest["inputs"], max_distance, top_clusters, max_cluster_size)
    with _settings_as_arguments():
        if artifacts.has_manifest(place):
            labels = PseudoLabels.open(place, inputs)
            _require_made_from(place, labels.codebook_hash, made.content_hash, "codebook")
            _require_made_from(place, labels.manifest["features_hash"], store.content_hash, "features")
            return labels
        return label_store(
            store,
            made,
            device,
            place,
            max_distance=max_distance,
            top_clusters=top_clusters,
            max_cluster_size=max_cluster_size,
        )


def open_artifact(folder: Place) -> FeatureStore | Codebook | PseudoLabels:
    """Opens a feature store, a codebook or pseudo-labels, whichever a folder holds.

    Raises:
        ArtifactError: it holds none of them, or one that is incomplete or damaged.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import make_codebook, open_artifact
        >>> _ = make_codebook(np.eye(4, dtype=np.float32), "run/codebook", num_clusters=2)
        >>> open_artifact("run/codebook").num_clusters
        2
    """
    place = artifact_path(str(folder), "folder")
    kind = str(artifacts.read_manifest(place).get("kind"))
    if kind not in _OPEN:
        raise ArtifactError(f"{place} must hold one of {', '.join(_OPEN)}, found a {kind!r}.")
    return _OPEN[kind](place)


def check_artifacts(*folders: Place) -> dict[Path, list[str]]:
    """Reads all artefacts in folders and below them, to the byte, against their manifests and each other.

    Returns:
        For the folder of each artefact what is wrong with it: nothing if all is well.

    Raises:
        ArtifactError: there is no artefact in one of the folders.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import check_artifacts, make_codebook
        >>> _ = make_codebook(np.eye(4, dtype=np.float32), "run/codebook", num_clusters=2)
        >>> [problems for folder, problems in check_artifacts("run").items()]
        [[]]
    """
    places = [artifact_path(str(folder), "folder") for folder in folders]
    without = [str(place) for place in places if not find_artifacts(place)]
    if without:
        raise ArtifactError(f"There is no artefact in {', '.join(without)}.")
    return dict(verify_artifacts(places))


def compare_labels(
    labels: PseudoLabels | Place,
    other: PseudoLabels | Place | None = None,
    true: Place | None = None,
    tolerance: float = comparison.TOLERANCE,
) -> dict[str, Any]:
    """The sizes of clusters, and how far labels agree with others of the same samples, or with true classes.

    Args:
        labels: or their folder.
        other: of the same samples, say with another seed.
        true: a ``.npy`` file of true classes, (N,) integers, -1 where a sample has none.
        tolerance: a sample is between two clusters if the second centroid is nearer than this share farther.

    Returns:
        As :func:`vissl_clusterfit.labels.comparison.label_quality`.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import compare_labels, make_codebook, make_labels
        >>> points = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], dtype=np.float32)
        >>> codebook = make_codebook(points, "run/codebook", num_clusters=2, normalize=False)
        >>> np.save("classes.npy", [5, 5, 7, 7])
        >>> quality = compare_labels(make_labels(points, codebook, "run/labels"), true="classes.npy")
        >>> quality["agreement"][0]["adjusted_rand"]
        1.0
    """
    folders = [
        place.folder if isinstance(place, PseudoLabels) else artifact_path(str(place), "labels")
        for place in (labels, other)
        if place is not None
    ]
    classes = None if true is None else artifact_path(str(true), "true")
    return comparison.label_quality(folders[0], folders[1] if len(folders) > 1 else None, classes, tolerance)


def _features(features: np.ndarray | FeatureStore | Place) -> FeatureStore:
    if isinstance(features, FeatureStore):
        return features
    if isinstance(features, np.ndarray):
        return ArrayFeatures(features)
    return FeatureStore.open(artifact_path(str(features), "features"))


def _codebook(codebook: Codebook | Place) -> Codebook:
    return codebook if isinstance(codebook, Codebook) else Codebook.open(artifact_path(str(codebook), "codebook"))


def _require_made_from(folder: Path, found: str, expected: str, what: str) -> None:
    if found != expected:
        raise ArtifactError(
            f"{folder} was made from other {what}, with the hash {found} and not {expected}. Name another folder, or "
            "delete this one to make it again."
        )


@contextmanager
def _settings_as_arguments() -> Iterator[None]:
    """Messages name the arguments of these functions, not the settings of a run."""
    try:
        yield
    except (ArtifactError, ConfigError) as error:
        text = str(error)
        for setting, argument in _NAMES.items():
            text = text.replace(setting, argument)
        raise type(error)(text) from None
