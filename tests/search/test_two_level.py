import numpy as np
import pytest
import torch

from vissl_clusterfit.clustering.kmeans import kmeans
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch
from vissl_clusterfit.search.two_level import NUM_PROBED, TwoLevelSearch


def two_levels(rows, num_coarse, num_fine, factory=TorchSearch):
    """Coarse centroids of rows, and fine ones: some of each coarse cluster's rows."""
    coarse = kmeans(ArraySource(rows), num_coarse, 10, 0, factory).centroids
    labels = factory(coarse).labels(rows)
    fine = [rows[labels == index][:num_fine] for index in range(num_coarse)]
    return np.concatenate(fine), coarse, np.array([len(part) for part in fine])


@pytest.fixture(scope="module")
def rows():
    """(4000, 16) float32: 200 groups."""
    rng = np.random.default_rng(3)
    groups = 2 * rng.standard_normal((200, 16))
    return (groups[rng.integers(0, 200, 4000)] + rng.standard_normal((4000, 16))).astype("f4")


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_looking_at_all_coarse_clusters_is_the_exact_search(rows, count):
    levels = two_levels(rows, 20, 15)
    search = TwoLevelSearch(*levels, TorchSearch, nprobe=20)
    for found, expected in zip(search.nearest(rows, count), TorchSearch(levels[0]).nearest(rows, count), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("decimals", [0, 1])
def test_ties_and_duplicates(decimals):
    """On a grid, distances are equal within coarse clusters and between them."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, 3)).round(decimals).astype("f4")
    centroids = rng.standard_normal((90, 3)).round(decimals).astype("f4")
    search = TwoLevelSearch(centroids, centroids[::10], np.full(9, 10), TorchSearch, nprobe=9)
    for found, expected in zip(search.nearest(rows, 4), TorchSearch(centroids).nearest(rows, 4), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_distances_that_only_float64_tells_apart():
    centroids = np.array([[1 + 2**-23], [-1], [1]], dtype="f4")
    rows = np.array([[2.0**-40], [-(2.0**-40)], [0]], dtype="f4")
    search = TwoLevelSearch(centroids, centroids, np.ones(3, dtype=np.int64), TorchSearch)
    np.testing.assert_array_equal(search.nearest(rows, 3)[0], TorchSearch(centroids).nearest(rows, 3)[0])


def test_few_labels_differ_from_the_exact_ones(rows):
    levels = two_levels(rows, 32, 8)
    labels = TwoLevelSearch(*levels, TorchSearch).labels(rows)
    assert (labels == TorchSearch(levels[0]).labels(rows)).mean() > 0.95


def test_the_nearest_of_the_nearest_coarse_clusters(rows):
    """By brute force."""
    centroids, coarse, counts = two_levels(rows, 32, 8)
    of = np.repeat(np.arange(32), counts)
    rows = rows[:300]
    looked_at = TorchSearch(coarse).nearest(rows, NUM_PROBED)[0]
    distances = ((rows[:, None].astype("f8") - centroids[None]) ** 2).sum(axis=2)
    distances[~(of[None, :, None] == looked_at[:, None]).any(axis=2)] = np.inf
    labels, near = TwoLevelSearch(centroids, coarse, counts, TorchSearch).nearest(rows, 2)
    np.testing.assert_array_equal(labels, distances.argsort(axis=1)[:, :2])
    np.testing.assert_allclose(near, np.sort(distances, axis=1)[:, :2], rtol=1e-6)


def test_labels_depend_neither_on_chunks_nor_on_threads(rows):
    search = TwoLevelSearch(*two_levels(rows, 32, 8), TorchSearch)
    expected = search.nearest(rows, 2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        parts = [search.nearest(part, 2) for part in np.array_split(rows, 7)]
    finally:
        torch.set_num_threads(threads)
    for found, whole in zip(zip(*parts, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), whole)


def test_more_neighbours_than_the_coarse_clusters_that_are_looked_at_have(rows):
    centroids = rows[:60]
    search = TwoLevelSearch(centroids, centroids[::6], np.full(10, 6), TorchSearch, nprobe=1)
    labels, distances = search.nearest(rows[:50], 20)
    assert all(len(set(row)) == 20 for row in labels)
    assert labels.max() < 60
    assert np.isfinite(distances).all()


def test_coarse_clusters_without_centroids(rows):
    counts = np.array([0, 30, 0, 30])
    search = TwoLevelSearch(rows[:60], rows[[0, 0, 30, 30]], counts, TorchSearch)
    np.testing.assert_array_equal(search.labels(rows), TorchSearch(rows[:60]).labels(rows))


def test_no_rows(rows):
    search = TwoLevelSearch(rows[:60], rows[:60:6], np.full(10, 6), TorchSearch)
    labels, distances = search.nearest(rows[:0], 2)
    assert labels.shape == distances.shape == (0, 2)


def test_each_backend(rows, search_factory):
    levels = two_levels(rows, 20, 15, search_factory)
    labels = TwoLevelSearch(*levels, search_factory, nprobe=20).labels(rows)
    assert (labels == TorchSearch(levels[0]).labels(rows)).mean() > 0.999
