import logging

import faiss
import numpy as np
import pytest
from brute_force import mean_distance, squared_distances
from iteration_states import IterationStates
from threadpoolctl import threadpool_limits

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, RANDOM, kmeans
from vissl_clusterfit.clustering.preprocessing import unit_rows
from vissl_clusterfit.clustering.protocol import ClusterSums
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.search.faiss_search import FaissSearch
from vissl_clusterfit.search.torch_search import TorchSearch


def brute_force_lloyd(rows, centroids, num_iter):
    """Lloyd's algorithm in float64; no cluster may become empty."""
    rows, centroids, objective = rows.astype(np.float64), centroids.astype(np.float64), []
    for _ in range(num_iter):
        distances = squared_distances(rows, centroids)
        labels = distances.argmin(axis=1)
        objective.append(distances.min(axis=1).mean())
        centroids = np.stack([rows[labels == k].mean(axis=0) for k in range(len(centroids))])
    return centroids, objective


def test_equals_brute_force(cluster, blobs):
    centroids, objective = brute_force_lloyd(blobs, blobs[:15], 6)
    result = cluster(blobs, 15, num_iter=6, initial_centroids=blobs[:15])
    np.testing.assert_allclose(result.centroids, centroids, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.objective, objective, rtol=1e-5)
    assert (result.num_points, result.counts.sum(), result.num_empty) == (1000, 1000, 0)


@pytest.mark.parametrize("spherical", [False, True])
def test_objective_never_rises(cluster, digits, spherical):
    objective = cluster(digits, 50, num_iter=40, spherical=spherical).objective
    assert (np.diff(objective) <= 1e-7 * objective[0]).all()
    assert objective[-1] < 0.7 * objective[0]


def test_spherical_centroids_are_unit_and_best_for_their_cluster(cluster, digits):
    result = cluster(digits, 10, num_iter=100, spherical=True)
    assert result.converged
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, rtol=1e-6)
    labels, distances = (column[:, 0] for column in FaissSearch(result.centroids).nearest(digits))
    cosines = (digits * result.centroids[labels]).sum(axis=1)
    np.testing.assert_allclose(distances, 2 - 2 * cosines, atol=1e-6)
    for k in range(10):
        mean = digits[labels == k].mean(axis=0)
        np.testing.assert_allclose(result.centroids[k], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("spherical", [False, True])
def test_as_good_as_faiss_on_average_over_seeds(cluster, digits, spherical):
    ours, theirs = [], []
    for seed in range(8):
        ours.append(mean_distance(digits, cluster(digits, 40, seed=seed, spherical=spherical).centroids))
        peer = faiss.Kmeans(
            64,
            40,
            niter=20,
            seed=seed,
            spherical=spherical,
            min_points_per_centroid=1,
            max_points_per_centroid=10**6,
        )
        peer.train(digits)
        theirs.append(mean_distance(digits, peer.centroids))
    assert np.mean(ours) <= 1.01 * np.mean(theirs)


def test_equals_faiss_from_the_same_start(cluster, digits):
    start = digits[:40].copy()
    peer = faiss.Kmeans(64, 40, niter=10, min_points_per_centroid=1, max_points_per_centroid=10**6)
    peer.train(digits, init_centroids=start)
    result = cluster(digits, 40, num_iter=10, initial_centroids=start)
    np.testing.assert_allclose(result.objective, np.array(peer.obj) / len(digits), rtol=1e-4)


def test_one_cluster_is_the_mean(cluster, blobs):
    result = cluster(blobs, 1)
    np.testing.assert_allclose(result.centroids[0], blobs.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert result.converged


def test_as_many_clusters_as_points(cluster, blobs):
    result = cluster(blobs[:100], 100)
    assert len(result.objective) == 1
    assert result.objective[0] <= 1e-9 * np.square(blobs).mean()
    assert result.converged
    np.testing.assert_array_equal(np.sort(result.centroids, axis=0), np.sort(blobs[:100], axis=0))


def test_more_clusters_than_points_is_refused(cluster, blobs):
    with pytest.raises(ConfigError, match=r"CLUSTERFIT\.NUM_CLUSTERS: found 101; allowed: 1 to 100,.* Lower it"):
        cluster(blobs[:100], 101)


def test_empty_clusters_are_repaired(cluster, blobs):
    start = np.concatenate([blobs[:10], np.full((10, 16), 1e3, dtype=np.float32)])
    result = cluster(blobs, 20, num_iter=100, initial_centroids=start)
    assert result.repaired[0] == 10
    assert result.num_empty == 0
    assert result.counts.min() > 0
    assert (np.diff(result.objective) <= 0).all()


def test_the_farthest_vector_founds_the_new_cluster(cluster):
    rows = np.array([[0], [1], [2], [9], [100], [101]], dtype=np.float32)
    start = np.array([[1], [100], [1e6]], dtype=np.float32)
    history = IterationStates()
    cluster(rows, 3, num_iter=2, initial_centroids=start, on_iteration=history.record)
    states = history.states
    assert states[0].repaired == (1,)
    assert states[0].centroids[:, 0].tolist() == [3, 100.5, 9]
    assert states[1].centroids[:, 0].tolist() == [1, 100.5, 9]


def test_a_cluster_of_one_vector_keeps_it(cluster):
    rows = np.array([[0], [1], [50]], dtype=np.float32)
    start = np.array([[0.5], [40], [1e6]], dtype=np.float32)
    assert cluster(rows, 3, num_iter=1, initial_centroids=start).centroids[:, 0].tolist() == [0.5, 50, 0]


@pytest.mark.parametrize("spherical", [False, True])
def test_fewer_distinct_points_than_clusters_terminates(cluster, blobs, spherical, caplog):
    rows = np.tile(unit_rows(blobs[:5]), (40, 1))
    result = cluster(rows, 12, num_iter=50, spherical=spherical)
    assert result.converged
    assert result.objective[-1] < 1e-13
    assert result.num_empty == 7
    assert "7 of 12 clusters stay empty: there are fewer features that differ by more than rounding." in caplog.text


def test_zero_vectors_do_not_break_cosine(cluster, blobs):
    rows = unit_rows(np.concatenate([np.zeros((50, 16), dtype=np.float32), blobs]))
    result = cluster(rows, 8, spherical=True)
    assert np.isfinite(result.centroids).all()


def test_opposite_vectors_leave_the_centroid_where_it_was(cluster):
    rows = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    start = np.array([[0, 1]], dtype=np.float32)
    np.testing.assert_array_equal(cluster(rows, 1, initial_centroids=start, spherical=True).centroids, start)


def test_same_seed_gives_same_bytes_and_another_does_not(cluster, digits):
    first, again, other = (cluster(digits, 30, seed=seed) for seed in (4, 4, 5))
    assert first.centroids.tobytes() == again.centroids.tobytes()
    assert first.objective == again.objective
    assert first.centroids.tobytes() != other.centroids.tobytes()


@pytest.mark.parametrize("start", [RANDOM, KMEANS_PLUSPLUS])
def test_the_size_of_a_chunk_does_not_matter(cluster, digits, start, monkeypatch):
    options = {"num_iter": 8, "start": start, "growing": start == KMEANS_PLUSPLUS}
    whole = cluster(digits, 30, **options)
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 300)
    parts = cluster(digits, 30, **options)
    assert parts.centroids.tobytes() == whole.centroids.tobytes()
    assert (parts.objective, parts.repaired) == (whole.objective, whole.repaired)
    np.testing.assert_array_equal(parts.counts, whole.counts)


def test_first_centroids_are_different_rows(cluster):
    rows = np.arange(50, dtype=np.float32)[:, None]
    history = IterationStates()
    cluster(rows, 50, seed=3, on_iteration=history.record)
    assert sorted(history.states[0].centroids[:, 0]) == list(range(50))


def test_resuming_from_a_state_equals_going_through(cluster, digits):
    history = IterationStates()
    whole = cluster(digits, 30, num_iter=10, on_iteration=history.record)
    rest = cluster(digits, 30, num_iter=4, initial_centroids=history.states[5].centroids)
    assert rest.centroids.tobytes() == whole.centroids.tobytes()
    assert rest.objective == whole.objective[6:]


@pytest.mark.parametrize("spherical", [False, True])
def test_resuming_from_any_state_is_the_same_to_the_byte(cluster, digits, spherical):
    """Empty clusters and their repair included: there are fewer distinct vectors than clusters."""
    rows, history = np.tile(digits[:25], (8, 1)), IterationStates()
    whole = cluster(rows, 40, num_iter=12, spherical=spherical, on_iteration=history.record)
    assert whole.repaired[0] > 0
    assert len(history.states) == len(whole.objective) > 2
    for number in range(1, len(history.states) + 1):
        rest, state = IterationStates(), history.after(number)
        again = cluster(rows, 40, num_iter=12, spherical=spherical, resume_from=state, on_iteration=rest.record)
        assert len(rest.states) == len(history.states) - number
        assert again.centroids.tobytes() == whole.centroids.tobytes()
        assert again.counts.tobytes() == whole.counts.tobytes()
        assert (again.objective, again.repaired, again.converged) == (whole.objective, whole.repaired, whole.converged)


def test_given_centroids_are_not_changed(cluster, blobs):
    start = blobs[:5].copy()
    cluster(blobs, 5, initial_centroids=start)
    np.testing.assert_array_equal(start, blobs[:5])


def test_the_log_says_what_is_done(cluster, blobs, caplog):
    with caplog.at_level(logging.INFO):
        cluster(blobs, 5, num_iter=2)
    assert "k-means iteration 2 of 2, on 100 % of the features: objective" in caplog.text
    assert "k-means ends after all 2 iterations" in caplog.text


def test_spread_centroids_end_better_than_random_ones(cluster, blobs):
    spread, random = (
        np.mean([cluster(blobs, 20, num_iter=30, seed=seed, start=start).objective[-1] for seed in range(8)])
        for start in (KMEANS_PLUSPLUS, RANDOM)
    )
    assert spread < random


def test_backends_agree(digits):
    faiss_result, torch_result = (
        kmeans(ArraySource(digits), 20, 10, 0, factory, start=KMEANS_PLUSPLUS, growing=True)
        for factory in (FaissSearch, TorchSearch)
    )
    np.testing.assert_allclose(torch_result.objective, faiss_result.objective, rtol=1e-5)
    np.testing.assert_allclose(torch_result.centroids, faiss_result.centroids, atol=1e-3)


def test_clusters_that_more_iterations_would_fill_are_told_from_those_that_nothing_can(cluster, caplog):
    rows = np.arange(40, dtype=np.float32)[:, None].copy()
    start = np.array([[0.0], *[[1e6 + number] for number in range(9)]], dtype=np.float32)
    assert cluster(rows, 10, num_iter=2, initial_centroids=start).num_empty > 0
    assert "they were still being filled" in caplog.text


def test_the_objective_of_more_clusters_than_blas_sums_on_one_thread():
    """OpenBLAS splits a dot product of more than 10,000 numbers over its threads."""
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((20_001, 3)).astype(np.float32)
    sums = ClusterSums(rng.standard_normal((20_001, 3)), rng.integers(0, 9, 20_001), 1e6)
    costs = set()
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            costs.add(sums.cost(centroids))
    assert len(costs) == 1


@pytest.mark.parametrize("growing", [True, False])
def test_a_tolerance_ends_it_early_and_changes_nothing_before(cluster, many_digits, growing, caplog):
    options = {"num_iter": 60, "growing": growing}
    history = IterationStates()
    whole = cluster(many_digits, 30, **options, on_iteration=history.record)
    with caplog.at_level(logging.INFO):
        settled = cluster(many_digits, 30, tolerance=0.003, **options)
    number = len(settled.objective)
    assert (2 if not growing else 26) <= number < len(whole.objective)
    assert settled.objective == whole.objective[:number]
    assert settled.settled
    assert not settled.converged
    assert settled.centroids.tobytes() == history.states[number - 1].centroids.tobytes()
    assert f"k-means ends after iteration {number} of 60: the last pass lowered the objective" in caplog.text
    assert mean_distance(many_digits, settled.centroids) <= 1.01 * mean_distance(many_digits, whole.centroids)
    # Stopped when it had settled, and before: nothing more is done, or what was left.
    for after in (number, number - 1):
        again = cluster(many_digits, 30, tolerance=0.003, resume_from=history.after(after), **options)
        assert again.centroids.tobytes() == settled.centroids.tobytes()
        assert (again.objective, again.settled) == (settled.objective, True)
