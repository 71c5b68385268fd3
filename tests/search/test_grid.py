"""Vectors on a grid of 8 bits, and the nearest ones there."""

import numpy as np
import pytest
import torch
from brute_force import squared_distances
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.search.grid import Grid, GridCentroids


def drawn(number, dim, seed, length=1.0):
    return (length * np.random.default_rng(seed).standard_normal((number, dim))).astype(np.float32)


def on_grid(number, dim, seed, reach):
    values = np.random.default_rng(seed).integers(-reach, reach + 1, (number, dim))
    return torch.from_numpy(values.astype(np.int8))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 2500), st.integers(1, 40)),
    reach=st.sampled_from([1, 3, 127]),
    count=st.integers(1, 3),
)
def test_the_nearest_on_the_grid_are_found_the_first_of_several(seed, shape, reach, count):
    """More than one block of rows, and of centroids; few steps, so that many are equally far."""
    num_rows, num_centroids, dim = shape
    count = min(count, num_centroids)
    rows, centroids = on_grid(num_rows, dim, seed, reach), on_grid(num_centroids, dim, seed + 1, reach)
    found = GridCentroids(centroids, torch.zeros(num_centroids, dtype=torch.bool)).nearest(rows, count)
    squared = squared_distances(rows.numpy(), centroids.numpy())
    # Half of a squared length is rounded down: by score, two squared distances that differ by one are the same.
    scores = np.ceil((squared - np.square(rows.double().numpy()).sum(axis=1, keepdims=True)) / -2)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.floats(1e-20, 1e20), shift=st.floats(-100, 100))
def test_rounding_is_by_half_a_step_and_says_what_is_beyond(seed, length, shift):
    sample = drawn(50, 7, seed, length) + np.float32(shift * length)
    grid = Grid.around(sample)
    rounded, beyond = grid.rounded(sample)
    assert not beyond.any()
    back = (rounded.double() + grid.shift).numpy() * grid.step
    # float32 has as many numbers around the shift.
    assert np.abs(back - sample).max() <= 0.5 * grid.step * (1 + 1e-3) + 1e-6 * np.abs(sample).max()
    rows = sample.copy()
    rows[3, 2] += np.float32(400 * grid.step)
    rows[9, 0] -= np.float32(400 * grid.step)
    assert grid.rounded(rows)[1].nonzero().flatten().tolist() == [3, 9]


def test_a_row_is_rounded_the_same_wherever_it_stands():
    rows = drawn(1000, 96, 0)
    grid = Grid.around(rows[:512])
    rounded, _ = grid.rounded(rows)
    again = torch.cat([grid.rounded(rows[low : low + 7])[0] for low in range(0, 1000, 7)])
    torch.testing.assert_close(again, rounded, rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
def test_vectors_that_are_all_the_same(value):
    rows = np.full((5, 3), value, dtype=np.float32)
    grid = Grid.around(rows)
    assert not grid.rounded(rows)[1].any()
    assert grid.rounded(rows + np.float32(1))[1].all() or value < -1e20


def test_no_row_is_nearest_to_a_centroid_that_is_beyond_the_grid():
    rows = drawn(200, 5, 0)
    grid = Grid.around(rows)
    centroids = np.concatenate([100 * rows[:1], rows[:20]])
    found = GridCentroids(*grid.rounded(centroids)).nearest(grid.rounded(rows)[0])
    assert (found[:, 0] > 0).all()
