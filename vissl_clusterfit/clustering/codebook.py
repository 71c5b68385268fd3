"""``Codebook``: centroids and the preprocessing that fit and assign share, as an artefact on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit import artifacts
from vissl_clusterfit.clustering.faiss_search import FaissSearch
from vissl_clusterfit.clustering.kmeans import KMeansResult, kmeans, require_enough_points
from vissl_clusterfit.clustering.preprocessing import Preprocessing, fit_preprocessing
from vissl_clusterfit.clustering.sources import StoreSource
from vissl_clusterfit.config import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore

logger = logging.getLogger(__name__)

KIND = "codebook"
_CENTROIDS, _MEAN, _COMPONENTS = "centroids.npy", "pca_mean.npy", "pca_components.npy"


@dataclass(frozen=True, eq=False)
class Codebook:
    """K centroids and the map from raw features to the space they are in.

    Attributes:
        folder: where it lies.
        manifest: what it was made from, and how the clustering went.
        centroids: (K, D) float32.
        preprocessing: from raw features of ``input_dim`` dimensions to vectors of D.
        input_dim: dimensions of the raw features that it labels.
        content_hash: of all that decides labels: codebooks with the same hash give the same ones.
    """

    folder: Path
    manifest: Mapping[str, Any]
    centroids: np.ndarray
    preprocessing: Preprocessing
    input_dim: int
    content_hash: str

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.centroids)

    @classmethod
    def open(cls, folder: Path, expected_inputs: Mapping[str, Any] | None = None) -> Codebook:
        """Opens a codebook.

        Args:
            folder: of the codebook.
            expected_inputs: what it must have been made from, as :func:`codebook_inputs` gives it.

        Raises:
            ArtifactError: it is missing, not what its manifest says, or made from other inputs.
        """
        manifest = artifacts.read_manifest(folder, KIND)
        if expected_inputs is not None:
            artifacts.require_same_inputs(folder, manifest["inputs"], expected_inputs)
        try:
            steps = manifest["preprocessing"]
            projects = bool(steps["num_components"])
            dim, input_dim = int(manifest["dim"]), int(manifest["input_dim"])
            centroids = _read(folder, _CENTROIDS, (int(manifest["num_clusters"]), dim))
            mean = _read(folder, _MEAN, (input_dim,)) if projects else None
            components = _read(folder, _COMPONENTS, (dim, input_dim)) if projects else None
            preprocessing = Preprocessing(bool(steps["normalize"]), mean, components, bool(steps["unit_output"]))
            content_hash = artifacts.content_hash([steps, manifest["sha256"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / artifacts.MANIFEST_NAME} is damaged: {error!r}.") from None
        if not projects and dim != input_dim:
            raise ArtifactError(f"{folder}: dim is {dim} and input_dim {input_dim}, but there is no projection.")
        return cls(folder, manifest, centroids, preprocessing, input_dim, content_hash)

    @classmethod
    def save(
        cls,
        folder: Path,
        inputs: Mapping[str, Any],
        centroids: np.ndarray,
        preprocessing: Preprocessing,
        facts: Mapping[str, Any],
    ) -> Codebook:
        """Writes a codebook, the manifest last, and opens it.

        Args:
            folder: made if it is missing; what a killed run left in it is written over.
            inputs: what it was made from.
            centroids: (K, D) float32.
            preprocessing: what was applied to the features.
            facts: of the clustering; ``input_dim`` must be one of them.
        """
        arrays = {_CENTROIDS: centroids}
        if preprocessing.mean is not None and preprocessing.components is not None:
            arrays |= {_MEAN: preprocessing.mean, _COMPONENTS: preprocessing.components}
        digests = {name: artifacts.write_array(folder / name, array) for name, array in arrays.items()}
        steps = {
            "normalize": preprocessing.normalize,
            "num_components": 0 if preprocessing.components is None else len(preprocessing.components),
            "unit_output": preprocessing.unit_output,
        }
        shape = {"num_clusters": centroids.shape[0], "dim": centroids.shape[1]}
        artifacts.write_manifest(folder, KIND, inputs, {**facts, **shape, "preprocessing": steps, "sha256": digests})
        return cls.open(folder)

    def search(self, device: str = "cpu") -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """A function from raw features to labels.

        It takes (n, input_dim) float32, and gives labels (n,) int64 and squared L2 distances (n,) float32.
        Distances are in the space of the centroids.

        Args:
            device: "cpu" or "cuda".
        """
        search = FaissSearch(self.centroids, device)
        return lambda rows_nD: search(self.preprocessing.apply(rows_nD))


def codebook_inputs(feature_inputs: Mapping[str, Any], settings: ClusterFitConfig) -> dict[str, Any]:
    """What a codebook is made from: what its features are, and the settings that change the outcome."""
    features = settings.features
    chosen: dict[str, Any] = {
        "num_clusters": settings.num_clusters,
        "num_iter": settings.num_iter,
        "metric": settings.metric,
        "seed": settings.seed,
        "cluster_backend": settings.cluster_backend,
        "data_limit": settings.data_limit,
        "normalize": features.normalize,
        "dimensionality_reduction": features.dimensionality_reduction,
        "whiten": features.whiten,
    }
    if settings.data_limit >= 0:
        chosen["data_limit_seed"] = settings.data_limit_sampling.seed
    return {"features": dict(feature_inputs), "settings": chosen}


def fit_codebook(store: FeatureStore, settings: ClusterFitConfig, device: str, folder: Path) -> Codebook:
    """Clusters the readable features of a store and keeps the codebook in ``folder``.

    Nothing is written before the clustering is done.

    Args:
        store: the features.
        settings: ``config.CLUSTERFIT``.
        device: "cpu" or "cuda".
        folder: of the codebook.

    Raises:
        ConfigError: more clusters, or more principal components, than there are features; or no GPU.
        DataError: a feature is NaN or infinite.
        MissingDependencyError: faiss is not installed.
    """
    indices = _drawn_samples(store, settings)
    raw = StoreSource(store, indices=indices)
    require_enough_points(settings.num_clusters, raw.num_vectors)
    logger.info(
        "The codebook is computed from %d of %d samples (%d unreadable, config.CLUSTERFIT.DATA_LIMIT %d).",
        raw.num_vectors,
        store.num_samples,
        len(store.unreadable),
        settings.data_limit,
    )
    cosine = settings.metric == "cosine"
    preprocessing = fit_preprocessing(
        raw,
        normalize=settings.features.normalize,
        num_components=settings.features.dimensionality_reduction,
        whiten=settings.features.whiten,
        unit_output=cosine,
    )
    result = kmeans(
        StoreSource(store, preprocessing, indices),
        settings.num_clusters,
        settings.num_iter,
        settings.seed,
        lambda centroids: FaissSearch(centroids, device),
        spherical=cosine,
    )
    inputs = codebook_inputs(store.inputs, settings)
    return Codebook.save(folder, inputs, result.centroids, preprocessing, _facts(store, settings, result))


def _drawn_samples(store: FeatureStore, settings: ClusterFitConfig) -> np.ndarray | None:
    """The samples that DATA_LIMIT leaves, sorted; None for all."""
    readable = StoreSource(store)
    if not 0 <= settings.data_limit < readable.num_vectors:
        return None
    rng = np.random.default_rng(settings.data_limit_sampling.seed)
    return readable.sample_indices(np.sort(rng.choice(readable.num_vectors, settings.data_limit, replace=False)))


def _facts(store: FeatureStore, settings: ClusterFitConfig, result: KMeansResult) -> dict[str, Any]:
    return {
        "metric": settings.metric,
        "features_hash": store.content_hash,
        "input_dim": store.dim,
        "num_samples": store.num_samples,
        "num_points": result.num_points,
        "num_iter": settings.num_iter,
        "num_iter_run": len(result.objective),
        "converged": result.converged,
        "objective": list(result.objective),
        "objective_is": "the mean squared L2 distance of a point to its nearest centroid before each update",
        "empty_clusters_repaired": list(result.repaired),
        "num_empty_clusters": result.num_empty,
        "whiten": settings.features.whiten,
        "seed": settings.seed,
        "cluster_backend": settings.cluster_backend,
    }


def _read(folder: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = artifacts.read_array(folder / name)
    if array.shape != shape or array.dtype != np.float32:
        raise ArtifactError(
            f"{folder / name} must hold {shape} of float32, as its manifest says; found {array.shape} of "
            f"{array.dtype}. Delete the folder and make the codebook again."
        )
    return array
