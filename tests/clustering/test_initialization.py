import numpy as np
import pytest

from vissl_clusterfit.clustering import initialization, sources
from vissl_clusterfit.clustering.initialization import NUM_ROUNDS, kmeans_plusplus, random_start
from vissl_clusterfit.clustering.protocol import ALL
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch


def numbered(count):
    """Vectors that say which they are."""
    return ArraySource(np.arange(count, dtype=np.float32)[:, None])


def drawn_by(start, source, num_clusters, seed, **options):
    """The positions in a source of ``numbered`` that a start draws."""
    options = {"search_factory": TorchSearch, **options} if start is kmeans_plusplus else options
    return start(source, num_clusters, seed, **options)[:, 0].astype(int)


def mean_distance(rows, centroids):
    return TorchSearch(centroids).nearest(rows)[1].mean(dtype=np.float64)


@pytest.mark.parametrize("start", [random_start, kmeans_plusplus])
@pytest.mark.parametrize("num_clusters", [1, 2, 7, 8, 9, 63, 100])
def test_no_vector_is_drawn_twice(start, num_clusters):
    drawn = drawn_by(start, numbered(100), num_clusters, 3)
    assert len(drawn) == len(set(drawn)) == num_clusters


@pytest.mark.parametrize("start", [random_start, kmeans_plusplus])
def test_a_seed_draws_the_same_and_another_does_not(start):
    first, again, other = (drawn_by(start, numbered(500), 20, seed).tolist() for seed in (4, 4, 5))
    assert first == again != other


@pytest.mark.parametrize(("start", "num_clusters"), [(random_start, 3), (random_start, 1), (kmeans_plusplus, 1)])
def test_all_vectors_are_equally_likely(start, num_clusters):
    draws = 1500
    counts = np.zeros(10)
    for seed in range(draws):
        counts[drawn_by(start, numbered(10), num_clusters, seed)] += 1
    share = num_clusters / 10
    assert np.abs(counts - draws * share).max() < 4 * np.sqrt(draws * share * (1 - share))


def test_the_second_is_drawn_by_its_squared_distance_from_the_first():
    source, draws = ArraySource(np.array([[0], [1], [3]], dtype=np.float32)), 1500
    counts = {(0, 1): 0, (0, 3): 0, (1, 3): 0}
    for seed in range(draws):
        counts[tuple(sorted(drawn_by(kmeans_plusplus, source, 2, seed)))] += 1
    # Either of the two may be the first one.
    expected = {(0, 1): 1 / 10 + 1 / 5, (0, 3): 9 / 10 + 9 / 13, (1, 3): 4 / 5 + 4 / 13}
    for pair, weight in expected.items():
        probability = weight / 3
        assert abs(counts[pair] - draws * probability) < 4 * np.sqrt(draws * probability * (1 - probability))


def test_vectors_on_a_centroid_are_drawn_last(blobs):
    """One is drawn in each round: the five distinct vectors come first, and then there are only copies."""
    rows = np.tile(blobs[:5], (60, 1))
    for seed in range(20):
        centroids = kmeans_plusplus(ArraySource(rows), NUM_ROUNDS, seed, TorchSearch)
        assert len(np.unique(centroids, axis=0)) == len(np.unique(centroids[:5], axis=0)) == 5


def test_spread_centroids_are_better_than_random_ones(search_factory, blobs):
    spread, random = (
        np.mean([mean_distance(blobs, draw(seed)) for seed in range(20)])
        for draw in (
            lambda seed: kmeans_plusplus(ArraySource(blobs), 20, seed, search_factory),
            lambda seed: random_start(ArraySource(blobs), 20, seed),
        )
    )
    assert spread < 0.85 * random


def test_one_at_a_time_is_not_much_better_than_a_few(blobs, monkeypatch):
    """What the heuristic costs, against k-means++ as it was published."""

    def mean_of_seeds():
        starts_ = [kmeans_plusplus(ArraySource(blobs), 40, seed, TorchSearch) for seed in range(10)]
        return np.mean([mean_distance(blobs, centroids) for centroids in starts_])

    few = mean_of_seeds()
    monkeypatch.setattr(initialization, "NUM_ROUNDS", 40)
    assert few < 1.1 * mean_of_seeds()


@pytest.mark.parametrize("share", [ALL, (0.0, 0.4)])
def test_neither_chunks_nor_the_backend_matter(search_factory, blobs, share, monkeypatch):
    expected = kmeans_plusplus(ArraySource(blobs), 20, 1, TorchSearch, share=share)
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    np.testing.assert_array_equal(kmeans_plusplus(ArraySource(blobs), 20, 1, search_factory, share=share), expected)


def test_all_are_drawn_from_the_share():
    drawn = drawn_by(kmeans_plusplus, numbered(1000), 50, 0, share=(0.0, 0.1))
    assert len(set(drawn)) == 50
    assert in_share(drawn, (0.0, 0.1)).all()


@pytest.mark.parametrize("magnitude", [1e-40, 1e-25, 1e15])
def test_vectors_of_any_length(magnitude):
    """Also where squared distances vanish in float32, and nothing says which vectors are far."""
    rows = (np.random.default_rng(0).standard_normal((200, 4)) * magnitude).astype(np.float32)
    centroids = kmeans_plusplus(ArraySource(rows), 30, 0, TorchSearch)
    assert len(np.unique(centroids, axis=0)) == 30
