"""Distances by brute force in float64: what every search and clustering is held against."""

import numpy as np


def squared_distances(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared distances (N, K) in float64, from rows (N, D) and centroids (K, D)."""
    squared = np.zeros((len(rows), len(centroids)))
    for k, centroid in enumerate(centroids.astype(np.float64)):
        squared[:, k] = np.square(rows.astype(np.float64) - centroid).sum(axis=1)
    return squared


def mean_distance(rows: np.ndarray, centroids: np.ndarray) -> float:
    """The mean squared distance to the nearest centroid."""
    return squared_distances(rows, centroids).min(axis=1).mean()
