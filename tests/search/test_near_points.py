"""Searches by lists of centroids near points."""

import functools

import numpy as np
import pytest
import torch
from brute_force import squared_distances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vissl_clusterfit.clustering.coarse import coarse_clusters, near_points, spread_vectors
from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, kmeans
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search import near_points as searched
from vissl_clusterfit.search.faiss_search import FaissSearch
from vissl_clusterfit.search.grid import Grid, GridCentroids
from vissl_clusterfit.search.near_points import GridSearch, NearPoints, NearSearch
from vissl_clusterfit.search.torch_search import TorchSearch


def clumps(num_rows, dim=16, seed=0, num_groups=60, spread=0.3):
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((num_groups, dim))
    of = rng.integers(0, num_groups, num_rows)
    return (middles[of] + spread * rng.standard_normal((num_rows, dim))).astype(np.float32)


@pytest.fixture(autouse=True)
def _lists_of_few(monkeypatch):
    monkeypatch.setattr(searched, "FEWEST_CENTROIDS_WITH_LISTS", 512)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    whole_numbers=st.booleans(),
    length=st.floats(1e-6, 1e6),
    num_rows=st.integers(1, 900),
)
def test_the_nearest_on_the_grid_of_the_list_of_the_nearest_point(seed, whole_numbers, length, num_rows):
    rng = np.random.default_rng(seed)
    rows, centroids, points = (clumps(number, 6, seed, 5) for number in (num_rows, 40, 8))
    if whole_numbers:  # ties
        rows, centroids, points = (np.round(values * 2) for values in (rows, centroids, points))
    rows, centroids, points = (values * np.float32(length) for values in (rows, centroids, points))
    near = np.sort([rng.choice(40, 7, replace=False) for _ in points])
    grid = Grid.around(np.concatenate([rows, centroids, points]))
    on_grid = [GridCentroids(*grid.rounded(values)) for values in (centroids, points)]
    exact = functools.partial(TorchSearch, centroids)
    found = NearSearch(grid, on_grid[0], exact, (on_grid[1], torch.from_numpy(near).int())).labels(rows)
    rounded = grid.rounded(rows)[0].numpy()
    group = least(rounded, on_grid[1].rounded.numpy()).argmin(axis=1)
    squared = least(rounded, on_grid[0].rounded.numpy())
    for row, of, label in zip(squared, group, found, strict=True):
        assert label == near[of][row[near[of]].argmin()]


def least(rows, centroids):
    """What is least where the distance is, up to the half of an odd squared length, which is rounded down."""
    lengths = np.square(rows.astype(np.float64)).sum(axis=1, keepdims=True)
    return np.floor((squared_distances(rows, centroids) - lengths) / 2)


def around_points(rows, num_clusters, factory):
    source = ArraySource(rows)
    return near_points(source, num_clusters, lambda: coarse_clusters(source, num_clusters, 0, factory), factory)


@pytest.fixture
def search():
    rows = clumps(9000)
    return rows, around_points(rows, 512, TorchSearch)


@pytest.mark.parametrize("seed", range(6))
def test_most_rows_find_the_nearest_of_all(seed):
    """Of some points there are more centroids nearby than lists are long."""
    rows = clumps(9000, seed=seed)
    around = around_points(rows, 512, TorchSearch)(rows[:512])
    assert type(around) is NearSearch
    grid = Grid.around(spread_vectors(ArraySource(rows)))
    exact = TorchSearch(rows[:512])
    of_all = GridSearch(grid, GridCentroids(*grid.rounded(rows[:512])), lambda: exact)
    assert (around.labels(rows) == of_all.labels(rows)).mean() > 0.99
    chosen = np.square(rows - rows[of_all.labels(rows)]).sum(axis=1)
    assert chosen.mean() <= 1.003 * exact.nearest(rows)[1].mean()  # in 16 dimensions rounding is coarse
    # Of the centroids nearest to a point, those that come first are in its list, however many more there are.
    points = coarse_clusters(ArraySource(rows), 512, 0, TorchSearch)
    squared = squared_distances(points, rows[:512])
    own = squared.argmin(axis=0)
    before = [(squared[point, own == point] < squared[point, number]).sum() for number, point in enumerate(own)]
    first = np.flatnonzero(np.array(before) < 16)  # the shortest list of 512 centroids
    assert len(first) > 450
    np.testing.assert_array_equal(around.labels(rows[first]), first)
    for mine, exactly in zip(around.nearest(rows[:50], 3), exact.nearest(rows[:50], 3), strict=True):
        np.testing.assert_array_equal(mine, exactly)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_neither_chunks_nor_threads_change_a_label(search, num_threads):
    rows, points = search
    whole = points(rows[:600]).labels(rows)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        again = points(rows[:600])
        parts = [again.labels(rows[low : low + 700]) for low in range(0, len(rows), 700)]
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_where_lists_would_be_too_short_rows_are_held_against_all():
    """Far from all groups every centroid is about as near, and no list has the nearest of most."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((4096, 256)).astype(np.float32)
    centroids = rows[:512] * np.float32(0.5)
    found = around_points(rows, 512, TorchSearch)(centroids)
    assert type(found) is GridSearch
    squared = squared_distances(rows, centroids)
    chosen = squared[np.arange(len(rows)), found.labels(rows)]
    assert chosen.mean() <= 1.0005 * squared.min(axis=1).mean()


def test_where_the_grid_cannot_tell_centroids_apart_the_search_is_exact():
    rows = clumps(9000)
    rows[::2] += np.float32(10_000)
    assert type(around_points(rows, 512, TorchSearch)(rows[:512])) is TorchSearch


def test_rows_that_the_grid_does_not_reach_are_searched_exactly(search):
    rows, points = search
    far = np.concatenate([rows[:700], 30 * rows[:9], 1e12 * rows[9:12]])
    centroids = np.concatenate([rows[:600], 29 * rows[:5]])
    found = points(centroids).labels(far)
    np.testing.assert_array_equal(found[700:], TorchSearch(centroids).labels(far[700:]))
    assert set(found[700:705]) == set(range(600, 605))
    assert found[:700].max() < 600


def test_a_source_without_vectors_has_no_sums(search):
    rows, points = search
    sums = ArraySource(rows[:0]).accumulate(points(rows[:512]))
    assert (sums.num_vectors, sums.sums.any()) == (0, False)


def test_few_centroids_and_other_searches(search):
    rows, points = search
    assert type(points(rows[:511])) is GridSearch  # as first centroids are, which are drawn in a few rounds
    assert around_points(rows, 511, TorchSearch) is TorchSearch
    assert around_points(rows, 512, FaissSearch) is FaissSearch


def test_k_means_around_points_ends_as_low(monkeypatch):
    rows = clumps(20_000, num_groups=30)
    made = []
    call = NearPoints.__call__
    monkeypatch.setattr(NearPoints, "__call__", lambda *of: made.append(call(*of)) or made[-1])
    options = {"start": KMEANS_PLUSPLUS, "growing": True}
    found = [kmeans(ArraySource(rows), 512, 20, 0, TorchSearch, **options).centroids]
    assert sum(type(search) is NearSearch for search in made) > 15
    monkeypatch.setattr("vissl_clusterfit.clustering.coarse.FEWEST_CENTROIDS", 513)
    found.append(kmeans(ArraySource(rows), 512, 20, 0, TorchSearch, **options).centroids)
    around, exact = (TorchSearch(centroids).nearest(rows)[1].mean() for centroids in found)
    assert around <= 1.01 * exact
