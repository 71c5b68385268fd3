"""What is meant by the place that a command names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vissl_clusterfit.errors import ArtifactError, problem
from vissl_clusterfit.storage.artifacts import has_manifest, read_array
from vissl_clusterfit.verification.verify import find_artifacts


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


def features_in(place: str) -> np.ndarray | str:
    """The rows of a ``.npy`` file, mapped; or the place itself, of a feature store."""
    return read_array(Path(place), mmap=True) if place.endswith(".npy") else place
