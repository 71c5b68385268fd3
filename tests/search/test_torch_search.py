"""Labels are those of exact arithmetic, whatever computes them: brute force in float64 agrees."""

import numpy as np
import pytest
import torch
from brute_force import squared_distances
from exact_labels import TYPES, check_labels, near_bisectors, same_centroids
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.search import torch_search
from vissl_clusterfit.search.torch_search import TorchSearch, fast_product_type

DIMS = [1, 2, 3, 7, 16, 28, 29, 30, 31, 32, 33, 64, 100]
SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]


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
        patch.setattr(torch_search.error_bounds, "score_threshold", lambda best, error, dtype: best)
        assert (TorchSearch(centroids, product_type=torch.bfloat16).labels(rows) != expected).sum() > 500


def test_most_rows_are_certain_at_once(blobs, monkeypatch):
    """Bounds so wide that everything is decided from differences would be right, and slow."""
    pairs, decided = [], []
    distances, decide = torch_search._Tile._distances, torch_search._Tile._decide

    def counting_pairs(self, rows, row, *args):
        pairs.append(len(row))
        return distances(self, rows, row, *args)

    def counting(self, rows, row, candidate, wanted, count):
        decided.append(int(wanted.sum()))
        return decide(self, rows, row, candidate, wanted, count)

    monkeypatch.setattr(torch_search._Tile, "_distances", counting_pairs)
    monkeypatch.setattr(torch_search._Tile, "_decide", counting)
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
