"""What labels of exact arithmetic are, and rows that need it."""

import numpy as np
import torch
from brute_force import squared_distances

TYPES = [torch.bfloat16, torch.float32]


def same_centroids(centroids):
    """Of each centroid the first one that equals it, (K,)."""
    _, first, inverse = np.unique(centroids, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def check_labels(labels, rows, centroids, squared):
    """The nearest centroids, to within the last bits of float64, and the first one of several that are equal."""
    chosen = squared[np.arange(len(rows)), labels]
    assert (chosen <= squared.min(axis=1) * (1 + (rows.shape[1] + 2) * 2.0**-52)).all()
    np.testing.assert_array_equal(labels, same_centroids(centroids)[labels])


def near_bisectors(num_rows, margin, dim=64, num_clusters=50, offset=0.0):
    """Rows half-way between a centroid and its neighbour, off by a share of their distance, and the centroids."""
    rng = np.random.default_rng(0)
    centroids = (rng.standard_normal((num_clusters, dim)) + offset).astype(np.float32)
    between = squared_distances(centroids, centroids)
    np.fill_diagonal(between, np.inf)
    first = rng.integers(0, num_clusters, num_rows)
    one, other = (centroids[index].astype(np.float64) for index in (first, between.argmin(axis=1)[first]))
    aside = margin * rng.choice([-1.0, 1.0], (num_rows, 1))
    return ((one + other) / 2 + aside * (other - one)).astype(np.float32), centroids
