"""Labels are those of exact arithmetic, whatever computes them: brute force in float64 agrees."""

import numpy as np
import pytest
import torch
from brute_force import squared_distances
from exact_labels import SIZES, TYPES, check_labels, check_nearest, near_bisectors, problems
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.search import error_bounds
from vissl_clusterfit.search.tile import Tile
from vissl_clusterfit.search.torch_search import TorchSearch, fast_product_type


@settings(max_examples=250, deadline=None, derandomize=True)
@given(problem=problems(), dtype=st.sampled_from(TYPES), count=st.integers(1, 7))
def test_brute_force_in_float64_agrees(problem, dtype, count):
    rows, centroids = problem
    squared = squared_distances(rows, centroids)
    search = TorchSearch(centroids, product_type=dtype)
    labels = search.labels(rows)
    assert labels.shape == (len(rows),)
    check_labels(labels, rows, centroids, squared)
    count = min(count, len(centroids))
    labels, distances = search.nearest(rows, count)
    assert labels.shape == distances.shape == (len(rows), count)
    check_nearest(labels, distances, rows, centroids, squared)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    dim=st.integers(1, 6),
    num_rows=st.sampled_from(SIZES),
    num_clusters=st.sampled_from(SIZES),
    power=st.sampled_from([-60, -20, 0, 1, 40]),
    offset=st.sampled_from([0, 0, 1000]),
    dtype=st.sampled_from(TYPES),
)
def test_of_centroids_that_are_equally_near_it_is_the_first(seed, dim, num_rows, num_clusters, power, offset, dtype):
    """On a lattice float64 makes no error at all, and most vectors are as near to several centroids."""
    rng = np.random.default_rng(seed)
    rows, centroids = (rng.integers(-2, 3, (count, dim)) + offset for count in (num_rows, num_clusters))
    rows, centroids = (np.ldexp(vectors.astype(np.float32), power) for vectors in (rows, centroids))
    squared = squared_distances(rows, centroids)
    search = TorchSearch(centroids, product_type=dtype)
    np.testing.assert_array_equal(search.labels(rows), squared.argmin(axis=1))
    count = min(4, num_clusters)
    order = squared.argsort(axis=1, kind="stable")[:, :count]
    labels, distances = search.nearest(rows, count)
    np.testing.assert_array_equal(labels, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(squared, order, axis=1).astype(np.float32))


@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize("margin", [0.0, 1e-7, 1e-5, 1e-3])
def test_rows_within_a_hair_of_a_bisector(product_type, margin, offset):
    rows, centroids = near_bisectors(4000, margin, offset=offset)
    squared = squared_distances(rows, centroids)
    # What float64 cannot tell apart is none of the data.
    nearest, second = np.partition(squared, 1, axis=1)[:, :2].T
    assert (second - nearest > 1e-12 * nearest).all() or margin == 0
    labels = TorchSearch(centroids, product_type=product_type).labels(rows)
    check_labels(labels, rows, centroids, squared)
    told_apart = second - nearest > 1e-12 * nearest
    np.testing.assert_array_equal(labels[told_apart], squared.argmin(axis=1)[told_apart])
    assert told_apart.mean() > 0.9


@pytest.mark.parametrize(("margin", "least_wrong"), [(1e-7, 1500), (1e-5, 1000), (1e-3, 200)])
def test_the_product_alone_would_be_wrong(margin, least_wrong):
    """The data of the test above need the exact decision."""
    rows, centroids = near_bisectors(4000, margin)
    shift = centroids.mean(axis=0)
    x, c = (torch.from_numpy(vectors - shift) for vectors in (rows, centroids))
    scores = (x.bfloat16() @ c.bfloat16().T).float() - c.square().sum(dim=1) / 2
    alone = scores.argmax(dim=1).numpy()
    assert (alone != squared_distances(rows, centroids).argmin(axis=1)).sum() >= least_wrong


def test_the_bound_is_what_finds_the_uncertain_rows(monkeypatch):
    """Without it labels are wrong, and it leaves most rows of ordinary data certain."""
    rows, centroids = near_bisectors(4000, 1e-7)
    expected = squared_distances(rows, centroids).argmin(axis=1)
    with monkeypatch.context() as patch:
        patch.setattr(error_bounds, "score_threshold", lambda best, error, dtype: best)
        assert (TorchSearch(centroids, product_type=torch.bfloat16).labels(rows) != expected).sum() > 500


def test_most_rows_are_certain_at_once(blobs, monkeypatch):
    """Bounds so wide that everything is decided from differences would be right, and slow."""
    pairs, decided = [], []
    distances, decide = Tile._distances, Tile._decide

    def counting_pairs(self, rows, row, *args):
        pairs.append(len(row))
        return distances(self, rows, row, *args)

    def counting(self, rows, row, candidate, wanted, count):
        decided.append(int(wanted.sum()))
        return decide(self, rows, row, candidate, wanted, count)

    monkeypatch.setattr(Tile, "_distances", counting_pairs)
    monkeypatch.setattr(Tile, "_decide", counting)
    search = TorchSearch(blobs[::50], product_type=torch.bfloat16)
    search.labels(blobs)
    assert 0 < sum(pairs) < 400
    assert sum(decided) < 10


@pytest.mark.parametrize("count", [1, 2])
def test_a_distance_that_overflows_is_an_error_and_a_label_is_not(product_type, count):
    rows = np.array([[3e38, -3e38], [-3e38, 3e38], [0, 0]], dtype=np.float32)
    search = TorchSearch(np.array([[-3e38, 3e38], [1, 1], [3e38, -3e38]], dtype=np.float32), product_type=product_type)
    assert search.labels(rows).tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r"too large.*FEATURES\.NORMALIZE=true"):
        search.nearest(np.full((1, 2), -3e38, dtype=np.float32), count)


@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-38, 1e37, 3e38])
def test_vectors_at_the_ends_of_float32(product_type, scale):
    rng = np.random.default_rng(0)
    rows = (rng.uniform(-1, 1, (500, 5)) * scale).astype(np.float32)
    centroids = (rng.uniform(-1, 1, (40, 5)) * scale).astype(np.float32)
    squared = squared_distances(rows, centroids)
    np.testing.assert_array_equal(
        TorchSearch(centroids, product_type=product_type).labels(rows), squared.argmin(axis=1)
    )


def test_float16_rows_and_centroids_are_taken(blobs):
    half = blobs.astype(np.float16)
    np.testing.assert_array_equal(
        TorchSearch(half[::25]).labels(half), squared_distances(half, half[::25]).argmin(axis=1)
    )


def test_the_product_type_is_measured_and_one_of_two():
    assert fast_product_type("cpu") in TYPES
