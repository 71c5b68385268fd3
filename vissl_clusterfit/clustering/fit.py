"""From a feature store to a codebook, with the state of every iteration kept on disk until it is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit import artifacts
from vissl_clusterfit.clustering.codebook import Codebook, array_shapes, codebook_inputs
from vissl_clusterfit.clustering.faiss_search import FaissSearch
from vissl_clusterfit.clustering.kmeans import KMeansResult, kmeans, require_enough_points
from vissl_clusterfit.clustering.preprocessing import fit_preprocessing
from vissl_clusterfit.clustering.sources import StoreSource
from vissl_clusterfit.config import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.storage.folders import names_in, remove_folder
from vissl_clusterfit.storage.whole_files import remove_leftovers

logger = logging.getLogger(__name__)

IN_PROGRESS = "in_progress"


def fit_codebook(store: FeatureStore, settings: ClusterFitConfig, device: str, folder: Path) -> Codebook:
    """Clusters the readable features of a store and keeps the codebook in ``folder``.

    The state after each iteration is kept below ``folder``, as a codebook of its own. A clustering that was stopped
    goes on from there, and ends with the very codebook that it would have had.

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
    inputs = codebook_inputs(store.inputs, settings)
    stopped = _last_iteration(folder, inputs, store.content_hash)
    if stopped is not None:
        preprocessing = stopped.preprocessing
    else:
        preprocessing = fit_preprocessing(
            raw,
            normalize=settings.features.normalize,
            num_components=settings.features.dimensionality_reduction,
            whiten=settings.features.whiten,
            unit_output=cosine,
        )

    def save(place: Path, state: KMeansResult) -> Codebook:
        return Codebook.save(
            place, inputs, state.centroids, state.counts, preprocessing, _facts(store, settings, state)
        )

    def keep(state: KMeansResult) -> None:
        number = len(state.objective)
        save(_iteration(folder, number), state)
        remove_folder(_iteration(folder, number - 1))

    result = kmeans(
        StoreSource(store, preprocessing, indices),
        settings.num_clusters,
        settings.num_iter,
        settings.seed,
        lambda centroids: FaissSearch(centroids, device),
        spherical=cosine,
        resume_from=None if stopped is None else _state(stopped),
        on_iteration=keep,
    )
    codebook = save(folder, result)
    remove_folder(folder / IN_PROGRESS)
    remove_leftovers(folder)
    return codebook


def _iteration(folder: Path, number: int) -> Path:
    return folder / IN_PROGRESS / f"iteration-{number:06d}"


def _last_iteration(folder: Path, inputs: Mapping[str, Any], features_hash: str) -> Codebook | None:
    """The last whole iteration of a clustering that was stopped, if it was this clustering."""
    kept = [name for name in names_in(folder / IN_PROGRESS) if name.startswith("iteration-")]
    for place in (folder / IN_PROGRESS / name for name in sorted(kept, reverse=True)):
        try:
            codebook = Codebook.open(place, inputs)
            _require_as_written(codebook)
        except ArtifactError as error:
            logger.info("An iteration that was kept is not used: %s", error)
            continue
        if codebook.manifest["features_hash"] == features_hash:
            return codebook
    return None


def _require_as_written(codebook: Codebook) -> None:
    for name in array_shapes(codebook.manifest):
        if artifacts.file_sha256(codebook.folder / name) != codebook.manifest["sha256"].get(name):
            raise ArtifactError(f"{codebook.folder / name} is not the file that was written.")


def _state(codebook: Codebook) -> KMeansResult:
    manifest = codebook.manifest
    return KMeansResult(
        centroids=codebook.centroids,
        objective=tuple(manifest["objective"]),
        repaired=tuple(manifest["empty_clusters_repaired"]),
        counts=codebook.counts,
        num_points=manifest["num_points"],
        converged=manifest["converged"],
    )


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
