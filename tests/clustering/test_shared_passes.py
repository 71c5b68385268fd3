"""Several clusterings in the same passes: each has the result that it has alone, to the bit."""

import threading

import numpy as np
import pytest
from iteration_states import IterationStates

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, RANDOM, kmeans
from vissl_clusterfit.clustering.minibatches import steps
from vissl_clusterfit.clustering.preprocessing import fit_preprocessing
from vissl_clusterfit.clustering.shared_passes import share_passes
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.search.torch_search import TorchSearch

#: Their schedules differ: 24 vectors per cluster are in different shares of the sample.
NUMS_CLUSTERS = [5, 40, 1, 12]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert [thread for thread in threading.enumerate() if thread.name == "k-means"] == []


@pytest.fixture
def rows():
    """(3000, 8) float32: forty groups."""
    rng = np.random.default_rng(5)
    group = rng.integers(0, 40, 3000)
    return (3 * rng.standard_normal((40, 8))[group] + rng.standard_normal((3000, 8))).astype("f4")


def kmeans_several(source, nums_clusters, *arguments, **options):
    """k-means for each K, in shared passes."""

    def job(num_clusters):
        return lambda shared: kmeans(shared, num_clusters, *arguments, **options)

    return share_passes(source, [job(number) for number in nums_clusters])


def require_same(found, expected):
    assert found.centroids.tobytes() == expected.centroids.tobytes()
    assert found.counts.tobytes() == expected.counts.tobytes()
    for name in ("objective", "shares", "repaired", "num_points", "converged"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": KMEANS_PLUSPLUS, "growing": True},
        {"start": KMEANS_PLUSPLUS, "growing": True, "spherical": True},
    ],
)
def test_each_is_what_it_is_alone(rows, search_factory, options):
    found = kmeans_several(ArraySource(rows), NUMS_CLUSTERS, 14, 3, search_factory, **options)
    for num_clusters, result in zip(NUMS_CLUSTERS, found, strict=True):
        require_same(result, kmeans(ArraySource(rows), num_clusters, 14, 3, search_factory, **options))


def test_their_schedules_differ():
    assert len({tuple(steps(14, 3000, number, growing=True)) for number in NUMS_CLUSTERS}) >= 2


def test_empty_clusters_and_an_early_end(rows):
    """Those that take further passes for repairs, or none any more, do not disturb the others."""
    few = np.repeat(rows[:30], 100, axis=0)
    found = kmeans_several(ArraySource(few), [60, 3, 31], 20, 0, TorchSearch, start=RANDOM)
    assert sum(found[0].repaired) > 0
    assert len({len(result.objective) for result in found}) > 1
    for num_clusters, result in zip([60, 3, 31], found, strict=True):
        require_same(result, kmeans(ArraySource(few), num_clusters, 20, 0, TorchSearch, start=RANDOM))


@pytest.mark.parametrize("settings", [{"normalize": True}, {"normalize": False, "num_components": 5, "whiten": True}])
def test_features_on_disk_with_preprocessing(rows, make_store, settings):
    store = make_store(rows, [0, 77, 2999])
    steps = fit_preprocessing(StoreSource(store), **settings)
    options = {"start": KMEANS_PLUSPLUS, "growing": True}
    found = kmeans_several(StoreSource(store, steps), NUMS_CLUSTERS, 14, 3, TorchSearch, **options)
    for num_clusters, result in zip(NUMS_CLUSTERS, found, strict=True):
        require_same(result, kmeans(StoreSource(store, steps), num_clusters, 14, 3, TorchSearch, **options))


class CountingSource(ArraySource):
    """Counts the vectors that are read in passes."""

    def __init__(self, rows):
        super().__init__(rows)
        self._reads = []  # by what is copied of it, too

    @property
    def num_read(self):
        return sum(self._reads)

    def take(self, positions):
        self._reads.append(len(positions))
        return super().take(positions)


@pytest.mark.parametrize("growing", [False, True])
def test_vectors_are_read_once_for_all(rows, growing):
    source = CountingSource(rows)
    assert source.extent.largest > 0
    options = {"initial_centroids": rows[:40], "growing": growing}
    alone = CountingSource(rows)
    kmeans(alone, 40, 5, 0, TorchSearch, **options)
    found = share_passes(source, [lambda shared: kmeans(shared, 40, 5, 0, TorchSearch, **options)] * 3)
    assert source.num_read == alone.num_read
    assert len({result.centroids.tobytes() for result in found}) == 1


def test_one_resumes_from_its_state(rows):
    history = IterationStates()
    expected = kmeans(ArraySource(rows), 12, 14, 3, TorchSearch, growing=True, on_iteration=history.record)

    def resume(shared):
        return kmeans(shared, 12, 14, 3, TorchSearch, growing=True, resume_from=history.after(5))

    def from_the_start(shared):
        return kmeans(shared, 5, 14, 3, TorchSearch, growing=True)

    resumed, other = share_passes(ArraySource(rows), [resume, from_the_start])
    require_same(resumed, expected)
    require_same(other, kmeans(ArraySource(rows), 5, 14, 3, TorchSearch, growing=True))


def test_one_that_cannot_be_ends_all(rows):
    with pytest.raises(ConfigError, match="found 3001; allowed: 1 to 3000"):
        kmeans_several(ArraySource(rows), [5, 3001, 7], 12, 0, TorchSearch)


def test_vectors_that_cannot_be_clustered_end_all(rows):
    rows[2500, 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinite, the first is sample 2500"):
        kmeans_several(ArraySource(rows), [5, 7], 12, 0, TorchSearch)


def test_what_one_raises_on_the_way_ends_all(rows):
    def stop(state, sums):
        if len(state.objective) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kmeans_several(ArraySource(rows), [5, 7], 12, 0, TorchSearch, on_iteration=stop)
