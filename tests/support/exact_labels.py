"""What labels of exact arithmetic are, and rows that need it."""

import numpy as np
import torch
from brute_force import squared_distances
from hypothesis import strategies as st

TYPES = [torch.bfloat16, torch.float32]
DIMS = [1, 2, 3, 7, 16, 28, 29, 30, 31, 32, 33, 64, 100]
SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]


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


def check_nearest(labels, distances, rows, centroids, squared):
    """As :func:`check_labels` for each of several."""
    count = labels.shape[1]
    expected = np.sort(squared, axis=1)[:, :count]
    chosen = np.take_along_axis(squared, labels, axis=1)
    last_bits = 1 + (rows.shape[1] + 2) * 2.0**-52
    assert (chosen <= expected * last_bits).all()
    assert (expected <= chosen * last_bits).all()
    np.testing.assert_allclose(distances, chosen, rtol=1e-6, atol=2e-45)
    assert (np.diff(distances, axis=1) >= 0).all()
    same = same_centroids(centroids)
    for row in labels:
        assert len(set(row)) == count
        for group in set(same[row]):
            equal = np.flatnonzero(same == group)
            picked = row[same[row] == group]
            np.testing.assert_array_equal(picked, equal[: len(picked)])


@st.composite
def problems(draw):
    """Rows and centroids of all magnitudes, with duplicates, zeros, a common offset and rows on centroids."""
    dim, num_rows = draw(st.sampled_from(DIMS)), draw(st.sampled_from([0, *SIZES]))
    num_clusters = draw(st.sampled_from(["few", "as many"])) == "few" and draw(st.sampled_from(SIZES))
    num_clusters = num_clusters or max(1, num_rows)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 50.0, 1e8, 1e18]))
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, 30.0, 1e4])) * min(scale, 1e14)
    mixed = draw(st.sampled_from(["no", "no", "rows", "centroids", "both"]))
    decades = draw(st.sampled_from([2, 8]))

    def vectors(count, name):
        values = rng.standard_normal((count, dim)) * scale + offset
        if mixed in (name, "both"):
            values *= 10.0 ** rng.integers(-decades, decades if scale <= 1e8 else 1, (count, 1))
        if draw(st.booleans()):
            values[rng.random(count) < 0.3] = 0
        if count and draw(st.booleans()):
            values = values[rng.integers(0, count, count)]
        return values.clip(-5e17, 5e17).astype(np.float32)  # so that no distance overflows

    rows, centroids = vectors(num_rows, "rows"), vectors(num_clusters, "centroids")
    if draw(st.booleans()):
        shared = min(num_rows, num_clusters)
        centroids[:shared] = rows[:shared]
    return rows, centroids
