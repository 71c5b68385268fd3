"""Leaving out centroids that are certainly farther changes no label, and leaves out most of them."""

import numpy as np
import pytest
import torch
from brute_force import squared_distances
from exact_labels import check_labels, check_nearest, near_bisectors, problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search import neighbourhoods, tile
from vissl_clusterfit.search.torch_search import TorchSearch

PATCHED_ONCE = [HealthCheck.function_scoped_fixture]  # the patches hold for all examples


@pytest.fixture
def small(monkeypatch):
    """Few centroids and rows are enough for reference points, and one near centroid in four is looked at."""
    monkeypatch.setattr(tile, "FEWEST_CENTROIDS", 4)
    monkeypatch.setattr(tile, "FEWEST_ROWS_WITH_POINTS", 1)
    monkeypatch.setattr(neighbourhoods, "NEAR_ONE_OF", 4)
    monkeypatch.setattr(neighbourhoods, "CENTROIDS_PER_REFERENCE", 4)
    monkeypatch.setattr(neighbourhoods, "_LOOKED_AT", 1 << 40)


def shares(search):
    """Of the rows that were looked at, the share that was certain."""
    near = search._tiles[0][1]._near
    return near._certain / near._looked_at


def clumps(num_rows, num_clusters, dim=64, spread=0.15, seed=0, num_groups=200):
    """Rows and centroids in a few groups that are far apart."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((num_groups, dim))

    def around(count):
        return (middles[rng.integers(0, num_groups, count)] + spread * rng.standard_normal((count, dim))).astype(
            np.float32
        )

    return around(num_rows), around(num_clusters)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(problem=problems(), count=st.integers(1, 7))
def test_brute_force_in_float64_agrees(problem, count, small):
    rows, centroids = problem
    squared = squared_distances(rows, centroids)
    search = TorchSearch(centroids, product_type=torch.bfloat16)
    check_labels(search.labels(rows), rows, centroids, squared)
    labels, distances = search.nearest(rows, min(count, len(centroids)))
    check_nearest(labels, distances, rows, centroids, squared)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=PATCHED_ONCE)
@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.02, 0.1, 0.2, 0.3, 0.5]),
    count=st.integers(1, 5),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_brute_force_agrees_where_most_are_left_out(seed, spread, count, scale, offset, small):
    rows, centroids = (
        scale * (part + offset) for part in clumps(300, 200, dim=24, spread=spread, seed=seed, num_groups=20)
    )
    rows[:40] = centroids[:40]
    squared = squared_distances(rows, centroids)
    search = TorchSearch(centroids, product_type=torch.bfloat16)
    check_labels(search.labels(rows), rows, centroids, squared)
    labels, distances = search.nearest(rows, count)
    check_nearest(labels, distances, rows, centroids, squared)


@pytest.mark.parametrize("margin", [0.0, 1e-7, 1e-3])
def test_rows_within_a_hair_of_a_bisector(margin, small):
    rows, centroids = near_bisectors(2000, margin, num_clusters=64)
    squared = squared_distances(rows, centroids)
    search = TorchSearch(centroids, product_type=torch.bfloat16)
    check_labels(search.labels(rows), rows, centroids, squared)


@pytest.mark.parametrize(("spread", "least", "most"), [(0.15, 0.9, 1.0), (0.3, 0.3, 0.97)])
def test_where_groups_are_apart_many_rows_are_certain(spread, least, most):
    rows, centroids = clumps(4096, 4096, spread=spread)
    search = TorchSearch(centroids, product_type=torch.bfloat16)
    np.testing.assert_array_equal(search.labels(rows), TorchSearch(centroids, product_type=torch.float32).labels(rows))
    assert least < shares(search) < most


def test_the_bound_is_what_says_which_rows_are_certain(monkeypatch):
    rows, centroids = np.random.default_rng(0).standard_normal((2, 4096, 16)).astype(np.float32)
    expected = TorchSearch(centroids, product_type=torch.float32).labels(rows)
    np.testing.assert_array_equal(TorchSearch(centroids, product_type=torch.bfloat16).labels(rows), expected)
    monkeypatch.setattr(neighbourhoods.Neighbourhoods, "_distance", lambda self, scores, error, rows: scores * 0.0)
    assert (TorchSearch(centroids, product_type=torch.bfloat16).labels(rows) != expected).sum() > 100


def test_where_too_few_rows_are_certain_nothing_is_left_out_any_more():
    rng = np.random.default_rng(0)
    rows, centroids = (rng.standard_normal((count, 32)).astype(np.float32) for count in (8192, 2048))
    search = TorchSearch(centroids, product_type=torch.bfloat16)
    assert search.num_rows > 0
    search.labels(rows)
    assert shares(search) < 0.5
    assert search.num_rows == 0
    looked_at = search._tiles[0][1]._near._looked_at
    search.labels(rows)
    assert search._tiles[0][1]._near._looked_at == looked_at


def test_few_centroids_few_rows_or_float32_are_searched_in_full(blobs):
    _, centroids = clumps(1, 2048)
    searches = [
        (TorchSearch(centroids[:2047], product_type=torch.bfloat16), 4096),
        (TorchSearch(centroids, product_type=torch.float32), 4096),
        (TorchSearch(centroids, product_type=torch.bfloat16), 511),
    ]
    for search, num_rows in searches:
        search.labels(np.zeros((num_rows, 64), dtype=np.float32))
        assert search._tiles[0][1]._near is None


def test_passes_join_chunks_for_it_and_have_the_same_sums():
    rows, centroids = clumps(20_000, 2048)
    calls = []

    class Counting(TorchSearch):
        def labels(self, rows_nD):
            calls.append(len(rows_nD))
            return super().labels(rows_nD)

    found = [
        ArraySource(rows).accumulate(Counting(centroids, product_type=dtype))
        for dtype in (torch.bfloat16, torch.float32)
    ]
    assert sorted(calls) == sorted([*[2048] * 9, 20_000 - 9 * 2048, 6144, 6144, 6144, 20_000 - 3 * 6144])
    assert found[0].squares == found[1].squares
    for name in ("sums", "counts"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
