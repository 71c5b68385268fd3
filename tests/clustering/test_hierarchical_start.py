import numpy as np
import pytest
import torch
from brute_force import mean_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from iteration_states import IterationStates

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.coarse import coarse_clusters
from vissl_clusterfit.clustering.hierarchical_start import hierarchical_start
from vissl_clusterfit.clustering.kmeans import HIERARCHICAL, KMEANS_PLUSPLUS, kmeans
from vissl_clusterfit.clustering.minibatches import PARTS, equal_parts, steps
from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.protocol import ALL
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch


def groups(num_rows: int, num_groups: int = 60, dim: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = 3 * rng.standard_normal((num_groups, dim))
    return (middles[rng.integers(0, num_groups, num_rows)] + rng.standard_normal((num_rows, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return groups(6000)


def started(rows, num_clusters, seen):
    source = ArraySource(rows)
    coarse = coarse_clusters(source, num_clusters, 0, TorchSearch)
    return hierarchical_start(source, num_clusters, 0, coarse, TorchSearch, seen)


def fit(rows, num_clusters, num_iter, **options):
    options = {"start": HIERARCHICAL, "growing": True, **options}
    return kmeans(ArraySource(rows), num_clusters, num_iter, 0, TorchSearch, **options)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_sums_are_those_of_all_vectors_each_in_one_cluster(data):
    """Of any rows, many of them alike; against sums in float64."""
    num_rows = data.draw(st.integers(1, 400))
    num_clusters = data.draw(st.integers(1, num_rows))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    distinct = rng.standard_normal((data.draw(st.integers(1, num_rows)), 3)).astype(np.float32)
    rows = distinct[rng.integers(0, len(distinct), num_rows)] * np.float32(data.draw(st.sampled_from([0.0, 1.0, 1e4])))
    seen = data.draw(st.sampled_from([(ALL,), PARTS]))
    start = started(rows, num_clusters, seen)
    assert start.centroids.shape == (num_clusters, 3)
    assert np.isfinite(start.centroids).all()
    assert list(start.sums) == list(seen)
    cost = 0.0
    for part, sums in start.sums.items():
        own = rows[in_share(np.arange(num_rows), part)].astype(np.float64)
        assert sums.num_vectors == len(own)
        assert (sums.sums[sums.counts == 0] == 0).all()
        scale = np.abs(own).sum(initial=1e-30)
        np.testing.assert_allclose(sums.sums.sum(axis=0, dtype=np.float64), own.sum(axis=0), atol=1e-6 * scale)
        np.testing.assert_allclose(sums.squares, np.square(own).sum(), rtol=1e-12)
        cost += sums.cost(start.centroids)
    least = mean_distance(rows, start.centroids) * num_rows
    assert cost >= least - 1e-5 * np.square(rows, dtype=np.float64).sum()


def test_vectors_are_assigned_to_centroids_near_them(rows):
    """To the nearest one of their coarse cluster, whose borders cut some groups."""
    start = started(rows, 60, PARTS)
    cost = sum(sums.cost(start.centroids) for sums in start.sums.values()) / len(rows)
    assert mean_distance(rows, start.centroids) <= cost <= 1.35 * mean_distance(rows, start.centroids)


def test_more_iterations_end_lower_and_near_those_of_k_means_plusplus(rows):
    ends = [mean_distance(rows, fit(rows, 100, number).centroids) for number in (1, 2, 5, 9, 20)]
    assert ends == sorted(ends, reverse=True)
    spread = mean_distance(rows, fit(rows, 100, 20, start=KMEANS_PLUSPLUS).centroids)
    assert ends[0] <= 1.25 * spread
    assert ends[-1] <= 1.1 * spread


def test_the_first_iteration_sees_all_parts_or_enough_of_them():
    few = steps(20, 100_000, 4096, growing=True, hierarchical=True)
    assert few[:3] == [equal_parts(4), equal_parts(4)[:1], equal_parts(4)[1:2]]
    many = steps(20, 10**6, 1000, growing=True, hierarchical=True)
    assert many[:3] == [PARTS[:1], PARTS[1:2], PARTS[2:3]]
    assert {share for step in many[:8] for share in step} == set(PARTS)
    for number in range(20):
        assert steps(number, 10**6, 1000, growing=True, hierarchical=True) == many[:number]


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("num_clusters", [1, 40, 700])
def test_going_on_from_any_state_is_the_same_to_the_byte(rows, num_clusters, growing):
    kept = IterationStates()
    whole = fit(rows, num_clusters, 12, growing=growing, on_iteration=kept.record)
    assert whole.counts.sum() == len(rows)
    for number in range(1, len(kept.states) + 1):
        again = fit(rows, num_clusters, 12, growing=growing, resume_from=kept.after(number))
        assert again.centroids.tobytes() == whole.centroids.tobytes()
        assert again.counts.tobytes() == whole.counts.tobytes()
        assert (again.objective, again.shares, again.repaired) == (whole.objective, whole.shares, whole.repaired)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_chunks_change_no_byte(rows, threads, monkeypatch):
    whole = fit(rows, 90, 4)
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 300)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    parts = fit(rows, 90, 4)
    torch.set_num_threads(before)
    assert parts.centroids.tobytes() == whole.centroids.tobytes()
    assert parts.objective == whole.objective


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("growing", [False, True])
def test_fewer_distinct_vectors_than_clusters(rows, spherical, growing):
    few = np.tile(unit_rows(rows[:7]), (400, 1))
    result = fit(few, 30, 40, spherical=spherical, growing=growing)
    # Of unit vectors that are the same, two centroids may be equally near to within rounding.
    assert result.num_empty in ((22, 23) if spherical else (23,))
    assert mean_distance(few, result.centroids) < 1e-12
    assert result.converged or spherical


def test_spherical_centroids_are_unit(rows):
    result = fit(unit_rows(rows), 50, 3, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, rtol=1e-6)


def test_that_its_own_assignment_moves_nothing_is_no_convergence():
    """As many clusters as vectors: each is its own mean at once, but only a search of all says which is the nearest."""
    rows = groups(50)
    kept = IterationStates()
    result = kmeans(ArraySource(rows), 50, 5, 0, TorchSearch, start=HIERARCHICAL, on_iteration=kept.record)
    assert not kept.states[0].converged
    assert result.converged
    assert len(result.objective) == 2
