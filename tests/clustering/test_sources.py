import numpy as np
import pytest
import torch

from vissl_clusterfit import artifacts
from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.faiss_search import FaissSearch
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.sources import ArraySource, StoreSource
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.features.store import FeatureStore


def brute_force_distances(rows, centroids):
    """(N, K) float64."""
    return ((rows[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(axis=2)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 256 rows, so that small data has several."""
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)


@pytest.mark.usefixtures("short_chunks")
def test_accumulate_equals_brute_force(blobs):
    centroids = blobs[:7] + 0.1
    found = ArraySource(blobs).accumulate(FaissSearch(centroids))
    distances = brute_force_distances(blobs, centroids)
    labels, nearest = distances.argmin(axis=1), distances.min(axis=1)
    for k in range(7):
        members = np.flatnonzero(labels == k)
        assert found.counts[k] == len(members)
        np.testing.assert_allclose(found.sums[k], blobs[members].sum(axis=0, dtype=np.float64), rtol=1e-12)
        assert found.farthest_positions[k] == members[nearest[members].argmax()]
    np.testing.assert_allclose(found.objective, nearest.sum(), rtol=1e-6)


@pytest.mark.usefixtures("short_chunks")
def test_of_several_farthest_vectors_the_first_is_named():
    rows = np.zeros((600, 2), dtype=np.float32)
    rows[[90, 100, 500]] = [3, 4]
    found = ArraySource(rows).accumulate(FaissSearch(np.zeros((1, 2), dtype=np.float32)))
    assert found.farthest_positions.tolist() == [90]
    assert found.farthest_distances.tolist() == [25]


def test_a_cluster_without_vectors_has_no_farthest_one(blobs):
    centroids = np.stack([blobs.mean(axis=0), np.full(16, 1e4, dtype=np.float32)])
    found = ArraySource(blobs).accumulate(FaissSearch(centroids))
    assert found.counts.tolist() == [1000, 0]
    assert found.farthest_positions[1] == -1


def test_accumulate_leaves_the_number_of_threads_as_it_was(blobs):
    before = torch.get_num_threads()
    ArraySource(blobs).accumulate(FaissSearch(blobs[:3]))
    assert torch.get_num_threads() == before


def test_chunks_of_wide_vectors_are_shorter():
    assert sources.chunk_rows(512) == 8192
    assert sources.chunk_rows(8192) == 2048
    assert sources.chunk_rows(10**7) == 256


def test_a_store_gives_its_readable_samples(make_store, blobs):
    unreadable = [0, 1, 42, 260, 999]
    source = StoreSource(make_store(blobs, unreadable))
    readable = np.delete(np.arange(1000), unreadable)
    assert source.num_vectors == 995
    np.testing.assert_array_equal(source.sample_indices(np.arange(995)), readable)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in source.chunks()]), blobs[readable])


@pytest.mark.usefixtures("short_chunks")
def test_chunks_cover_every_vector_once_in_order(make_store, blobs):
    chunks = list(StoreSource(make_store(blobs, [300])).chunks())
    assert [start for start, _ in chunks] == [0, 256, 512, 768]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks]), np.delete(blobs, 300, axis=0))


def test_a_store_gives_the_samples_that_were_asked_for(make_store, blobs):
    source = StoreSource(make_store(blobs, [5]), indices=np.array([3, 5, 700]))
    assert source.sample_indices(np.arange(source.num_vectors)).tolist() == [3, 700]
    np.testing.assert_array_equal(source.take(np.array([0, 1])), blobs[[3, 700]])


def test_rows_are_prepared_as_they_are_read(make_store, blobs):
    source = StoreSource(make_store(blobs), Preprocessing(normalize=True))
    np.testing.assert_allclose(np.linalg.norm(source.take(np.arange(1000)), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_counted(make_store, blobs, value):
    store = make_store(blobs, [1])
    for shard_start, rows in ((100, [7, 8]), (500, [0])):
        path = store.folder / f"rows-{shard_start:012d}-{shard_start + 100:012d}.npy"
        damaged = artifacts.read_array(path)
        damaged[rows, 3] = value
        artifacts.write_array(path, damaged)
    source = StoreSource(FeatureStore.open(store.folder), Preprocessing(normalize=True))
    with pytest.raises(DataError, match=r"features of 3 of 999 samples are NaN or infinite.* sample 107\. Extract"):
        list(source.chunks())
