import itertools

import pytest

from vissl_clusterfit.clustering.minibatches import PARTS, equal_parts, has_settled, start_share, steps, width
from vissl_clusterfit.clustering.protocol import ALL


@pytest.mark.parametrize("num_iter", [12, 13, 20, 100, 1000])
@pytest.mark.parametrize("num_vectors", [2048, 10**4, 10**6, 10**9])
@pytest.mark.parametrize("num_clusters", [1, 10, 1000, 10**6])
def test_a_sample_grows_and_then_one_part_follows_the_other(num_iter, num_vectors, num_clusters):
    plan = steps(num_iter, num_vectors, num_clusters, growing=True)
    assert len(plan) == num_iter
    parts = PARTS if num_vectors >= 96 * num_clusters else equal_parts(4)
    num_early = num_iter // 6 if plan[0] != parts else 1
    early, rest = plan[:num_early], plan[num_early:]
    first = 2 if early[-1] == PARTS[:2] else 0
    assert early[-1] in (PARTS[:2], parts)
    assert rest == [(parts[(first + number) % len(parts)],) for number in range(len(rest))]
    widths = [width(step) for step in early]
    assert widths == sorted(widths)
    assert widths[0] * num_vectors >= min(num_vectors, 24 * num_clusters)


@pytest.mark.parametrize("num_iter", [12, 13, 50])
@pytest.mark.parametrize("num_clusters", [10, 10**5])
def test_all_vectors_have_been_seen_at_the_end(num_iter, num_clusters):
    last = steps(num_iter, 10**6, num_clusters, growing=True)[-8:]
    assert {share for step in last for share in step} == set(PARTS if num_clusters == 10 else equal_parts(4))


def test_a_plan():
    found = steps(20, 800_000, 1000, growing=True)
    assert found[:3] == [PARTS[:1], PARTS[:1], PARTS[:2]]
    assert found[3:11] == [(PARTS[number],) for number in (2, 3, 4, 5, 6, 7, 0, 1)]


def test_with_few_vectors_per_cluster_the_first_iteration_sees_all():
    assert steps(20, 95_999, 1000, growing=True)[:2] == [equal_parts(2), equal_parts(2)[:1]]
    assert steps(20, 96_000, 1000, growing=True)[0] == PARTS[:2]


@pytest.mark.parametrize(
    ("per_cluster", "hierarchical", "number"),
    [(96, False, 8), (95, False, 2), (48, False, 2), (47, False, 4), (96, True, 8), (95, True, 4), (10, True, 4)],
)
def test_with_few_vectors_per_cluster_parts_are_larger(per_cluster, hierarchical, number):
    plan = steps(30, 1000 * per_cluster, 1000, growing=True, hierarchical=hierarchical)
    assert all(len(step) == 1 for step in plan[5:])
    for first in range(5, 31 - number):
        assert {share for step in plan[first : first + number] for share in step} == set(equal_parts(number))


@pytest.mark.parametrize(
    ("num_vectors", "growing", "expected"),
    [
        (2 * 10**6, True, 12_288 / (2 * 10**6)),
        (10**6, True, 12_288 / 10**6),
        (96_000, True, 1 / 8),
        (30_000, True, 12_288 / 30_000),
        (5_000, True, 1),
        (10**6, False, 1),
    ],
)
def test_first_centroids_are_drawn_from_as_many_as_are_enough_of_what_the_first_iteration_sees(
    num_vectors, growing, expected
):
    num_clusters = 1000
    plan = steps(20, num_vectors, num_clusters, growing=growing)
    share = start_share(plan, num_vectors, num_clusters)
    assert share == (0, expected)
    assert num_vectors * width((share,)) >= 3 * num_clusters or share == ALL


@pytest.mark.parametrize(
    ("num_iter", "num_vectors", "growing"), [(20, 10**6, False), (3, 10**6, False), (20, 2047, True), (0, 10**6, True)]
)
def test_all_are_seen_each_time_on_request_and_when_there_is_little_to_do(num_iter, num_vectors, growing):
    assert steps(num_iter, num_vectors, 10, growing=growing) == [(ALL,)] * num_iter


def test_parts_are_all_vectors():
    assert width(PARTS) == 1
    assert [low for low, _ in PARTS[1:]] == [high for _, high in PARTS[:-1]]


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("num_vectors", [2047, 2048, 10**5, 10**9])
@pytest.mark.parametrize("num_clusters", [1, 100, 10**4])
def test_fewer_iterations_never_see_more(num_vectors, num_clusters, growing):
    plans = [steps(number, num_vectors, num_clusters, growing=growing) for number in range(80)]
    seen = [sum(map(width, plan)) for plan in plans]
    assert all(fewer < more for fewer, more in itertools.pairwise(seen))
    starts = [start_share(plan, num_vectors, num_clusters)[1] for plan in plans[1:12]]
    assert len(set(starts)) == 1
    for number in range(12):
        assert plans[number] == plans[12 if growing and num_vectors >= 2048 else 11][:number]


def test_a_clustering_settles_when_a_pass_brings_little():
    plan = steps(10, 10**6, 10, growing=False)
    assert not has_settled([], plan, 0.5)
    assert not has_settled([1.0], plan, 0.5)
    assert has_settled([4.0, 2.0], plan, 0.5)
    assert not has_settled([4.0, 1.99], plan, 0.5)
    assert not has_settled([4.0, 4.0], plan, 0.0)
    assert has_settled([9.0, 0.0, 0.0], plan, 0.01)


def test_in_parts_two_whole_passes_are_compared():
    plan = steps(40, 10**6, 10, growing=True)
    num_early = 40 // 6
    objective = [9.0] * num_early + [2.0] * 8 + [1.9] * 8
    assert not any(has_settled(objective[:number], plan, 0.5) for number in range(num_early + 16))
    assert has_settled(objective, plan, 0.051)
    assert not has_settled(objective, plan, 0.049)
    halves = steps(40, 60_000, 1000, growing=True)
    assert not has_settled([9.0] + [2.0] * 3, halves, 0.5)
    assert has_settled([9.0] + [2.0] * 2 + [1.9] * 2, halves, 0.051)
    assert not has_settled([9.0] + [2.0] * 2 + [1.9] * 2, halves, 0.049)
    # One part is harder than others, which says nothing.
    assert has_settled([9.0] * num_early + [1, 3, 2, 2, 2, 2, 2, 2] * 2, plan, 1e-9)
