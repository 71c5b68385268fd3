"""What must hold of the nearest clusters that labels keep for each sample. ``rules.py`` calls it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vissl_clusterfit.labels.assign import UNLABELLED
from vissl_clusterfit.labels.files import DISTANCES_FILE, MARGINS_FILE, NEAREST_DISTANCES_FILE, NEAREST_FILE
from vissl_clusterfit.search.backends import TORCH
from vissl_clusterfit.verification.files import Contents, blocks


def check_nearest(
    contents: Contents, top_clusters: int, labels: np.ndarray, distances: np.ndarray, margins: np.ndarray
) -> None:
    """Holds the T nearest clusters of each sample against its label, its distance and its margin.

    Args:
        contents: of the labels.
        top_clusters: T, larger than 1.
        labels: (N,) int64.
        distances: (N,) float32.
        margins: (N,) float32.
    """
    (num_clusters,) = contents.manifest["num_clusters"]
    shape = (len(labels), top_clusters)
    nearest = contents.array(NEAREST_FILE, shape, "int64")
    far = contents.array(NEAREST_DISTANCES_FILE, shape, "float32")
    if nearest is None or far is None:
        return
    # Their order is that of the search, which with faiss is right to within rounding.
    chosen = contents.manifest["inputs"]["codebook"].get("settings", {})
    slack = 0.0 if chosen.get("cluster_backend") == TORCH else 1e-2
    broken: Counter[tuple[str, str]] = Counter()
    for _, (nearest_nT, far_nT, label, distance, margin) in blocks(nearest, far, labels, distances, margins):
        labelled = label != UNLABELLED
        ordered = np.sort(nearest_nT, axis=1)
        known = (ordered[:, 0] >= 0) & (ordered[:, -1] < num_clusters) & (np.diff(ordered) > 0).all(axis=1)
        second = np.maximum(far_nT[:, 1] - far_nT[:, 0], 0)
        rules = {
            (NEAREST_FILE, "must begin with the label"): nearest_nT[:, 0] == label,
            (NEAREST_FILE, "must hold different clusters, each 0 to K - 1"): ~labelled | known,
            (NEAREST_FILE, "must hold -1 for samples without a label"): labelled
            | (nearest_nT == UNLABELLED).all(axis=1),
            (NEAREST_DISTANCES_FILE, f"must begin with the distance in {DISTANCES_FILE}"): ~labelled
            | (far_nT[:, 0] == distance),
            (NEAREST_DISTANCES_FILE, f"does not have the margin in {MARGINS_FILE}"): ~labelled | (second == margin),
            (NEAREST_DISTANCES_FILE, "must ascend"): ~labelled
            | (np.diff(far_nT) >= -slack * far_nT[:, 1:]).all(axis=1),
            (NEAREST_DISTANCES_FILE, "must be finite and >= 0"): ~labelled
            | (np.isfinite(far_nT) & (far_nT >= 0)).all(axis=1),
            (NEAREST_DISTANCES_FILE, "must hold -1 for samples without a label"): labelled
            | (far_nT == UNLABELLED).all(axis=1),
        }
        broken.update({rule: int((~holds).sum()) for rule, holds in rules.items()})
    for (name, problem), number in broken.items():
        contents.require(not number, f"{problem} ({number} times)", name)
