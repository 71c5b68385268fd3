"""From a feature store to a codebook, with the state of every iteration kept on disk until it is done."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.changes import changes_since
from vissl_clusterfit.clustering.checkpoints import last_checkpoint, save_checkpoint, state_of
from vissl_clusterfit.clustering.codebook import IN_PROGRESS, REFINEMENT, Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.kmeans import (
    KMeansResult,
    Sums,
    kmeans,
    require_enough_points,
)
from vissl_clusterfit.clustering.preprocessing import Preprocessing, fit_preprocessing
from vissl_clusterfit.clustering.refinement import Refined, refine
from vissl_clusterfit.clustering.shared_passes import share_passes
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.clustering.two_level import Vectors, cluster_within, require_coarse_clusters_fit
from vissl_clusterfit.config.clusterfit import DRAWN_STARTS, ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, ConfigError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.search.backends import search_factory
from vissl_clusterfit.search.protocol import SearchFactory
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import remove_leftovers
from vissl_clusterfit.storage.folders import remove_folder
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)


def fit_codebooks(store: FeatureStore, of_each: Sequence[ClusterFitConfig], device: str) -> list[Codebook]:
    """Clusters a store into several K in the same passes; each equals that of :func:`fit_codebook`, byte for byte.

    Each is kept where its own settings say, and a clustering that was stopped resumes each from its own state.

    Args:
        store: the features.
        of_each: ``config.CLUSTERFIT`` of each; they differ in K and in their folders.
        device: "cpu" or "cuda".

    Raises:
        ClusterFitError: as :func:`fit_codebook`; then none of those that were not ready yet is made.
    """

    def fit(settings: ClusterFitConfig, source: StoreSource) -> Codebook:
        return fit_codebook(store, settings, device, settings.paths.codebook, source=source)

    if len(of_each) == 1:
        return [fit_codebook(store, of_each[0], device, of_each[0].paths.codebook)]
    indices = drawn_samples(store, of_each[0])
    raw = StoreSource(store, indices=indices)
    for settings in of_each:
        require_enough_points(settings.num_clusters, raw.num_vectors)
    preprocessing = distributed.on_primary(lambda: _fit_steps(raw, of_each[0]))
    num_clusters = sum(settings.num_clusters for settings in of_each)
    source = StoreSource(store, preprocessing, indices, _own_part(), num_clusters)
    return share_passes(
        source,
        [functools.partial(fit, settings) for settings in of_each],
    )


def _own_part() -> tuple[int, int]:
    return distributed.rank(), distributed.world_size()


def fit_codebook(
    store: FeatureStore,
    settings: ClusterFitConfig,
    device: str,
    folder: Path,
    *,
    source: StoreSource | None = None,
) -> Codebook:
    """Clusters the readable features of a store and keeps the codebook in ``folder``.

    All processes of the run call this together: each reads its part of the features, and the primary one writes. The
    codebook is the same to the bit for any number of processes and threads. (A projection is fitted by the linear
    algebra of the machine's processor; another one's may differ in its last bits.)

    The state after each iteration is kept below ``folder``, as a codebook of its own. A clustering that was stopped
    resumes from there, and ends with the same codebook as without the stop.

    Args:
        store: the features.
        settings: ``config.CLUSTERFIT``.
        device: "cpu" or "cuda".
        folder: of the codebook.
        source: the prepared features, whose passes are shared with other clusterings; made here if None.

    Raises:
        ConfigError: more clusters, or more principal components, than there are features; or no GPU.
        DataError: a feature is NaN or infinite.
        MissingDependencyError: faiss is not installed.
    """
    indices = drawn_samples(store, settings)
    raw = StoreSource(store, indices=indices)
    require_enough_points(settings.num_clusters, raw.num_vectors)
    require_coarse_clusters_fit(settings.num_coarse_clusters, raw.num_vectors)
    limit = f", config.CLUSTERFIT.DATA_LIMIT {settings.data_limit}" if settings.data_limit >= 0 else ""
    logger.info(
        "The codebook is computed from %d of %d samples (%d unreadable%s).",
        raw.num_vectors,
        store.num_samples,
        len(store.unreadable),
        limit,
    )
    cosine = settings.metric == "cosine"
    inputs = codebook_inputs(store.inputs, settings, folder)
    place = distributed.on_primary(lambda: last_checkpoint(folder / IN_PROGRESS, inputs, store.content_hash))
    stopped = None if place is None else Codebook.open(place, inputs)
    # Before the projection is fitted, which reads all features.
    dim = settings.features.dimensionality_reduction or store.dim
    start = None if stopped is not None else _given_start(settings, dim)
    if stopped is not None:
        preprocessing = stopped.preprocessing
    elif source is not None:
        preprocessing = source.preprocessing
    else:
        preprocessing = distributed.on_primary(lambda: _fit_steps(raw, settings))
    # A projection that was fitted again may differ from that of a stopped clustering in its last bits.
    if source is None or not source.preprocessing.equals(preprocessing):
        source = StoreSource(store, preprocessing, indices, _own_part(), settings.num_clusters)

    def save(state: KMeansResult, place: Path, facts: Mapping[str, Any], *, synced: bool = True) -> None:
        facts = {**_facts(store, settings, state), **facts}
        Codebook.save(place, inputs, state.centroids, state.counts, preprocessing, facts, synced=synced)

    def keep_in(place: Path, progress: Progress) -> Callable[[KMeansResult, Sums], None]:
        def keep(state: KMeansResult, sums: Sums) -> None:
            save_it = functools.partial(save, state, synced=False)
            distributed.on_primary(lambda: save_checkpoint(place, state, sums, save_it))
            progress.set(len(state.objective), f"objective {state.objective[-1]:.4g}")

        return keep

    def refine_kept(fine: KMeansResult, coarse_centroids: np.ndarray) -> Refined:
        place = folder / IN_PROGRESS / REFINEMENT
        kept = distributed.on_primary(lambda: last_checkpoint(place, inputs, store.content_hash))
        stopped = None if kept is None else Codebook.open(kept, inputs)
        before = None if stopped is None or not stopped.preprocessing.equals(preprocessing) else state_of(stopped)

        done = 0 if before is None else len(before[0].objective)
        with Progress("Across coarse clusters", settings.refinement_iterations, "iterations", done=done) as progress:
            keep = keep_in(place, progress)
            return refine(source, fine, coarse_centroids, settings, factory, resume_from=before, on_iteration=keep)

    before = None if stopped is None else state_of(stopped)
    factory = search_factory(settings.cluster_backend, device)
    done = 0 if before is None else len(before[0].objective)
    with Progress(f"Clustering, K = {settings.num_clusters:,}", settings.num_iter, "iterations", done=done) as progress:
        result = kmeans(
            source,
            settings.num_coarse_clusters or settings.num_clusters,
            settings.num_iter,
            settings.seed,
            factory,
            spherical=cosine,
            start=settings.start,
            growing=settings.growing_sample,
            tolerance=settings.tolerance,
            time_limit=settings.time_limit,
            initial_centroids=start,
            resume_from=before,
            on_iteration=keep_in(folder / IN_PROGRESS, progress),
        )

    if settings.num_coarse_clusters:
        logger.info("The second level compares each feature with some K / C centroids in an iteration.")
        run = artifacts.content_hash([inputs, store.content_hash])
        vectors = Vectors(store, preprocessing, indices)
        fine, fine_counts = cluster_within(vectors, result.centroids, settings, factory, folder / IN_PROGRESS, run)
        about_levels: dict[str, Any] = {"coarse_objective": list(result.objective)}
        if inputs["settings"].get("refinement_iterations"):  # of which older versions, that began it, know nothing
            refined = refine_kept(fine, result.centroids)
            fine, fine_counts = refined.result, refined.fine_counts
            about_levels["num_probed"] = refined.num_probed
        elif fine.num_empty:
            logger.warning(
                "%d of %d clusters stay empty: coarse clusters have fewer distinct features. Lower the number of "
                "clusters, or look for duplicate samples.",
                fine.num_empty,
                len(fine.counts),
            )

    def finish() -> None:
        if settings.num_coarse_clusters:
            facts = {**_facts(store, settings, fine), **about_levels}
            levels = (result.centroids, fine_counts)
            Codebook.save(folder, inputs, fine.centroids, fine.counts, preprocessing, facts, levels)
        else:
            save(result, folder, _since_start(settings, result, factory))
        remove_folder(folder / IN_PROGRESS)
        remove_leftovers(folder)

    distributed.on_primary(finish)
    return Codebook.open(folder)


def _fit_steps(raw: StoreSource, settings: ClusterFitConfig) -> Preprocessing:
    return fit_preprocessing(
        raw,
        normalize=settings.features.normalize,
        num_components=settings.features.dimensionality_reduction,
        whiten=settings.features.whiten,
        unit_output=settings.metric == "cosine",
    )


def _given_start(settings: ClusterFitConfig, dim: int) -> np.ndarray | None:
    """The centroids of the codebook that START names; None if it says how to draw them."""
    if settings.start in DRAWN_STARTS:
        return None
    try:
        centroids = Codebook.open(artifact_path(settings.start)).centroids
    except ArtifactError as error:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.START",
                found=repr(settings.start),
                allowed=f"{' | '.join(DRAWN_STARTS)} | the folder of a codebook",
                remedy=str(error),
            )
        ) from None
    found, allowed = "", ""
    if len(centroids) != settings.num_clusters:
        found, allowed = f"{len(centroids)} clusters", f"one of NUM_CLUSTERS ({settings.num_clusters})"
    elif centroids.shape[1] != dim:
        found, allowed = f"dimension {centroids.shape[1]}", f"one of dimension {dim}, which this run clusters in"
    if found:
        raise ConfigError(problem("config.CLUSTERFIT.START", found=f"a codebook of {found}", allowed=allowed))
    return centroids


def _since_start(settings: ClusterFitConfig, result: KMeansResult, factory: SearchFactory) -> dict[str, Any]:
    """What the manifest says of the clusters that START's codebook had; nothing where there is none any more."""
    if settings.start in DRAWN_STARTS:
        return {}
    try:
        before = Codebook.open(artifact_path(settings.start))
    except ArtifactError as error:
        logger.warning("What became of the clusters of START is not said: %s", error)
        return {}
    if before.centroids.shape != result.centroids.shape:
        return {}
    changes = changes_since(before, result.centroids, result.counts, factory)
    logger.info("%s", changes)
    return {"since_start": changes.facts(before)}


def drawn_samples(store: FeatureStore, settings: ClusterFitConfig) -> np.ndarray | None:
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
        **({"settled": result.settled} if settings.tolerance else {}),
        **({"timed_out": result.timed_out} if settings.time_limit else {}),
        "objective": list(result.objective),
        "objective_is": "the mean squared L2 distance of a point to its nearest centroid before each update, over the "
        "share of all features that the iteration saw",
        "shares": list(result.shares),
        "empty_clusters_repaired": list(result.repaired),
        "num_empty_clusters": result.num_empty,
        "whiten": settings.features.whiten,
        "seed": settings.seed,
        "cluster_backend": settings.cluster_backend,
    }
