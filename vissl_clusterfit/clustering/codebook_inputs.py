"""What a codebook is made from, and by which settings: what tells one clustering from another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vissl_clusterfit.clustering.codebook import IN_PROGRESS, KIND, codebook_hash
from vissl_clusterfit.config.clusterfit import DRAWN_STARTS, ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.storage.paths import artifact_path


def codebook_inputs(
    feature_inputs: Mapping[str, Any], settings: ClusterFitConfig, folder: Path | None = None
) -> dict[str, Any]:
    """What a codebook is made from: what its features are, and the settings that change the outcome.

    Args:
        feature_inputs: of the feature store.
        settings: ``config.CLUSTERFIT``.
        folder: of the codebook, where it is not that of the settings.
    """
    features, own = settings.features, folder or settings.paths.codebook
    chosen: dict[str, Any] = {
        "num_clusters": settings.num_clusters,
        "num_iter": settings.num_iter,
        "metric": settings.metric,
        "seed": settings.seed,
        "cluster_backend": settings.cluster_backend,
        "start": _start_input(settings, own),
        "growing_sample": settings.growing_sample,
        "data_limit": settings.data_limit,
        "normalize": features.normalize,
        "dimensionality_reduction": features.dimensionality_reduction,
        "whiten": features.whiten,
    }
    if settings.data_limit >= 0:
        chosen["data_limit_seed"] = settings.data_limit_sampling.seed
    if settings.num_coarse_clusters:
        chosen["num_coarse_clusters"] = settings.num_coarse_clusters
        if not _began_unrefined(own):
            chosen["refinement_iterations"] = settings.refinement_iterations
    if settings.tolerance:
        chosen["tolerance"] = settings.tolerance
    if settings.time_limit:
        chosen["time_limit"] = settings.time_limit
    return {"features": dict(feature_inputs), "settings": chosen}


def _began_unrefined(own: Path) -> bool:
    """Whether an older version, which refined nothing, made or began the codebook; it is kept as it is."""
    made_with = (_manifest(place).get("inputs", {}).get("settings", {}) for place in _places(own))
    return any("num_coarse_clusters" in each and "refinement_iterations" not in each for each in made_with)


def _start_input(settings: ClusterFitConfig, own: Path) -> str:
    """How the first centroids are drawn, or the content hash of the codebook that they are those of.

    Older versions knew a codebook by the name of its folder: what they made, or began, keeps that.
    """
    if settings.start in DRAWN_STARTS:
        return settings.start
    said = [_said_start(place) for place in _places(own)]
    if settings.start in said:
        return settings.start
    try:
        return codebook_hash(artifacts.read_manifest(artifact_path(settings.start), KIND))
    except (ArtifactError, KeyError):  # it is not there any more, which what is made does not need, or never was
        return next((start for start in said if start), settings.start)


def _places(own: Path) -> list[Path]:
    """Where a codebook is, and what is kept of its iterations, the last one first."""
    kept = sorted((name for name in names_in(own / IN_PROGRESS) if name.startswith("iteration-")), reverse=True)
    return [own, *(own / IN_PROGRESS / name for name in kept)]


def _manifest(folder: Path) -> dict[str, Any]:
    """Of the codebook in a folder; empty if there is none that can be read."""
    try:
        return artifacts.read_manifest(folder, KIND)
    except ArtifactError:
        return {}


def _said_start(folder: Path) -> str:
    """What the codebook in a folder says that it started from; "" if there is none."""
    try:
        return str(_manifest(folder)["inputs"]["settings"]["start"])
    except (KeyError, TypeError):
        return ""
