"""How unlike the clustered samples others are: distances to the centroids against those of the clustered split."""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels

_PERCENTILES = (50, 90, 99)


def clustered_distances(codebook: Codebook) -> np.ndarray | None:
    """The squared distances of the clustered samples, float32 (n,), in no order; None where there are none.

    They are those of the labels that the codebook's run has written beside it, whose features are the codebook's.
    """
    for folder in sorted((codebook.folder.parent / "labels").glob("*")):
        try:
            labels = PseudoLabels.open(folder)
        except ArtifactError:
            continue
        same_features = labels.inputs["features"] == codebook.manifest["inputs"]["features"]
        if labels.codebook_hash == codebook.content_hash and same_features:
            return known_distances(labels)
    return None


def describe_drift(labels: PseudoLabels, clustered: np.ndarray | None) -> str:
    """One line: the distances of labelled samples at some percentiles, against those of the clustered ones.

    Args:
        labels: of other data.
        clustered: the squared distances of the clustered samples; None where they are not known.
    """
    distances, limit = known_distances(labels), labels.inputs["max_distance"]
    beyond = (
        "no limit is set (ASSIGN.MAX_DISTANCE)"
        if limit is None
        else f"{labels.manifest['drift']:.2%} of those that could be read are beyond the limit {limit:.6g} (drift)"
    )
    if not len(distances):
        return f"Distances to the nearest centroid: no sample could be read; {beyond}."
    if clustered is None or not len(clustered):
        shown = ", ".join(f"p{each} {np.percentile(distances, each):.4g}" for each in _PERCENTILES)
        return (
            f"Squared distances to the nearest centroid: {shown}; those of the clustered split are not beside the "
            f"codebook, so nothing says whether this is far; {beyond}."
        )
    here, there = np.percentile(distances, _PERCENTILES), np.percentile(clustered, _PERCENTILES)
    shown = ", ".join(f"p{each} {a:.4g} ({b:.4g})" for each, a, b in zip(_PERCENTILES, here, there, strict=True))
    farther = (distances > there[-1]).mean()
    return (
        f"Squared distances to the nearest centroid (in brackets those of the clustered split): {shown}; {farther:.2%} "
        f"are farther than 99 % of the clustered samples; {beyond}."
    )


def known_distances(labels: PseudoLabels) -> np.ndarray:
    """The squared distances of the samples that could be read, float32 (n,), in their order."""
    distances = labels.distances if labels.distances.ndim == 1 else labels.distances[:, 0]
    return np.asarray(distances)[np.asarray(distances) >= 0]
