import itertools

import pytest

from vissl_clusterfit.clustering.schedule import shares


@pytest.mark.parametrize("num_iter", [1, 2, 3, 4, 5, 7, 8, 20, 100, 1000])
@pytest.mark.parametrize("num_vectors", [1, 100, 10**4, 10**6, 10**9])
@pytest.mark.parametrize("num_clusters", [1, 10, 1000, 10**6])
def test_shares_grow_to_all_for_the_last_iterations(num_iter, num_vectors, num_clusters):
    plan = shares(num_iter, num_vectors, num_clusters, growing=True)
    last = min(num_iter, max(2, num_iter // 6))
    assert len(plan) == num_iter
    assert plan == sorted(plan)
    assert plan[num_iter - last :] == [1.0] * last
    assert plan[0] >= 1 / 16
    if plan[0] < 1:
        assert num_vectors * plan[0] >= 24 * num_clusters
        assert plan[num_iter - last - 1] < 1
        # No share is more than double the one before where there are iterations for all.
        assert num_iter < 8 or all(later <= 2 * share for share, later in itertools.pairwise(plan))


def test_a_plan():
    plan = shares(20, 200_000, 1000, growing=True)
    assert plan == [0.125] * 6 + [0.25] * 6 + [0.5] * 5 + [1.0] * 3


def test_with_few_vectors_per_cluster_all_are_seen():
    assert shares(20, 47_999, 1000, growing=True) == [1.0] * 20
    assert shares(20, 48_000, 1000, growing=True)[0] == 0.5


@pytest.mark.parametrize("num_iter", [1, 3, 20])
def test_on_request_all_are_seen_each_time(num_iter):
    assert shares(num_iter, 10**6, 10, growing=False) == [1.0] * num_iter


@pytest.mark.parametrize("num_iter", [1, 2, 3])
def test_few_iterations_see_all(num_iter):
    assert shares(num_iter, 10**6, 10, growing=True) == [1.0] * num_iter


def test_no_iterations_are_no_shares():
    assert shares(0, 100, 10, growing=True) == []
