"""k-means whose iterations see parts of the features: the same result to the byte, and nearly as good a one."""

import logging

import numpy as np
import pytest
from brute_force import mean_distance
from iteration_states import IterationStates

from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, RANDOM, kmeans
from vissl_clusterfit.clustering.minibatches import PARTS, steps, width
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch


def test_iterations_see_what_the_schedule_says(cluster, many_digits):
    history = IterationStates()
    result = cluster(many_digits, 8, num_iter=16, growing=True, on_iteration=history.record)
    plan = steps(16, len(many_digits), 8, growing=True)
    assert list(result.shares) == [width(step) for step in plan]
    assert set(result.shares) == {1 / 8, 1 / 4}
    parts = {share for step in plan for share in step}
    assert [state.counts.sum() < len(many_digits) for state in history.states] == [True] * 7 + [False] * 9
    assert result.counts.sum() == result.num_points == len(many_digits)
    assert len(history.states) == len(result.objective) == len(result.repaired) == len(result.shares)
    assert parts == set(PARTS)
    assert history.states[-2].retained == tuple(sorted(parts - set(plan[-1])))


def test_centroids_are_means_of_vectors_as_they_were_last_assigned(many_digits):
    """By brute force over the last iterations: each part by the centroids of the iteration that saw it."""
    history = IterationStates()
    result = kmeans(ArraySource(many_digits), 20, 19, 0, TorchSearch, growing=True, on_iteration=history.record)
    plan = steps(19, len(many_digits), 20, growing=True)
    labels = np.full(len(many_digits), -1)
    for number in range(11, 19):
        seen = in_share(np.arange(len(many_digits)), plan[number][0])
        labels[seen] = TorchSearch(history.states[number - 1].centroids).labels(many_digits[seen])
    for k in range(20):
        mean = many_digits[labels == k].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(result.centroids[k], mean, rtol=1e-6, atol=1e-7)
    assert result.counts.tolist() == np.bincount(labels, minlength=20).tolist()


@pytest.mark.parametrize("start", [RANDOM, KMEANS_PLUSPLUS])
def test_parts_end_nearly_as_well_as_all_vectors(cluster, many_digits, start):
    in_parts, all_vectors = (
        np.mean(
            [
                mean_distance(many_digits, cluster(many_digits, 30, seed=seed, start=start, growing=growing).centroids)
                for seed in range(4)
            ]
        )
        for growing in (True, False)
    )
    assert in_parts <= 1.02 * all_vectors


def test_k_means_in_parts_settles(cluster, many_digits, caplog):
    """Without working through iterations that would see what was seen and change nothing."""
    with caplog.at_level(logging.INFO):
        result = cluster(many_digits, 3, num_iter=400, growing=True)
    worked = sum(message.startswith("k-means iteration") for message in caplog.messages)
    assert worked < len(result.objective) < 400
    assert result.converged
    assert result.num_unchanged >= 8
    settled = mean_distance(many_digits, result.centroids)
    further = cluster(many_digits, 3, num_iter=1, initial_centroids=result.centroids)
    assert mean_distance(many_digits, further.centroids) == pytest.approx(settled, rel=1e-6)
    np.testing.assert_array_equal(further.counts, result.counts)


@pytest.mark.parametrize(("start", "num_clusters"), [(RANDOM, 4), (KMEANS_PLUSPLUS, 4), (KMEANS_PLUSPLUS, 200)])
def test_resuming_in_parts_from_any_state_is_the_same_to_the_byte(cluster, many_digits, start, num_clusters):
    history, options = IterationStates(), {"num_iter": 14, "growing": True, "start": start}
    whole = cluster(many_digits, num_clusters, on_iteration=history.record, **options)
    assert set(whole.shares) == ({1, 1 / 4} if num_clusters == 200 else {1 / 8, 1 / 4})
    for number in range(1, len(history.states) + 1):
        again = cluster(many_digits, num_clusters, resume_from=history.after(number), **options)
        assert again.centroids.tobytes() == whole.centroids.tobytes()
        assert again.counts.tobytes() == whole.counts.tobytes()
        assert (again.objective, again.shares, again.repaired) == (whole.objective, whole.shares, whole.repaired)


def test_empty_clusters_are_repaired_in_parts(cluster, many_digits):
    """A cluster that got a vector has it until the part of that vector is seen again."""
    history = IterationStates()
    start = np.concatenate([many_digits[:10], np.full((10, 64), 1e3, dtype=np.float32)])
    result = cluster(many_digits, 20, num_iter=40, growing=True, initial_centroids=start, on_iteration=history.record)
    assert result.repaired[0] == 10
    assert result.num_empty == 0
    assert result.counts.min() > 10
    for number in range(1, len(history.states) + 1):
        assert all((sums.counts >= 0).all() for sums in history.after(number)[1].values())


@pytest.mark.parametrize("start", [RANDOM, KMEANS_PLUSPLUS])
@pytest.mark.parametrize("seed", range(4))
def test_what_parts_leave_empty_is_filled_at_the_end(cluster, start, seed, caplog):
    """Nine distinct vectors in one part of many that are equal: each part comes once in eight iterations."""
    rows = np.random.default_rng(seed).standard_normal((10, 8)).astype(np.float32)
    rows = np.concatenate([rows[:9], rows[9:].repeat(2039, axis=0)])
    result = cluster(rows, 10, num_iter=50, start=start, growing=True)
    assert sorted(result.counts) == [1] * 9 + [2039]
    assert "stay empty" not in caplog.text


def test_fewer_iterations_never_end_lower(many_digits):
    """On the mean over some starts, of which each may settle otherwise; and they cost less."""
    ends = [
        np.mean(
            [
                mean_distance(
                    many_digits, kmeans(ArraySource(many_digits), 40, number, seed, TorchSearch, **options).centroids
                )
                for seed in range(4)
            ]
        )
        for number in (1, 2, 3, 5, 8, 11, 12, 20)
        for options in [{"start": KMEANS_PLUSPLUS, "growing": True}]
    ]
    assert ends == sorted(ends, reverse=True)


def test_a_state_of_an_older_version_resumes_as_that_did(cluster, many_digits):
    """Whose few iterations each saw all vectors."""
    history = IterationStates()
    older = cluster(many_digits, 20, num_iter=8, on_iteration=history.record)
    assert cluster(many_digits, 20, num_iter=8, growing=True).shares != older.shares
    for number in range(1, 8):
        again = cluster(many_digits, 20, num_iter=8, growing=True, resume_from=history.after(number))
        assert again.centroids.tobytes() == older.centroids.tobytes()
        assert (again.objective, again.shares) == (older.objective, older.shares)
