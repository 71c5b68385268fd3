import numpy as np
import pytest
import torch
from brute_force import squared_distances
from tiny_store import rewrite_manifest

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.preprocessing import Preprocessing, unit_rows
from vissl_clusterfit.clustering.protocol import ALL, ChunkTask
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.storage import artifacts


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 256 rows, so that small data has several."""
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)


@pytest.mark.usefixtures("short_chunks")
def test_sums_and_farthest_vectors_equal_brute_force(search_factory, blobs):
    centroids = blobs[:7] + 0.1
    search = search_factory(centroids)
    found, farthest = ArraySource(blobs).accumulate(search), ArraySource(blobs).farthest(search)
    distances = squared_distances(blobs, centroids)
    labels, nearest = distances.argmin(axis=1), distances.min(axis=1)
    for k in range(7):
        members = np.flatnonzero(labels == k)
        assert found.counts[k] == len(members)
        np.testing.assert_allclose(found.sums[k], blobs[members].sum(axis=0, dtype=np.float64), rtol=1e-12)
        assert farthest.positions[k] == members[nearest[members].argmax()]
        np.testing.assert_allclose(farthest.distances[k], nearest[members].max(), rtol=1e-6)
    np.testing.assert_allclose(found.objective(centroids), nearest.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.squares, np.square(blobs, dtype=np.float64).sum(), rtol=1e-12)
    assert found.num_vectors == 1000


@pytest.mark.usefixtures("short_chunks")
def test_of_several_farthest_vectors_the_first_is_named(search_factory):
    rows = np.zeros((600, 2), dtype=np.float32)
    rows[[90, 100, 500]] = [3, 4]
    found = ArraySource(rows).farthest(search_factory(np.zeros((1, 2), dtype=np.float32)))
    assert found.positions.tolist() == [90]
    assert found.distances.tolist() == [25]


def test_a_cluster_without_vectors_has_no_farthest_one(search_factory, blobs):
    search = search_factory(np.stack([blobs.mean(axis=0), np.full(16, 1e4, dtype=np.float32)]))
    assert ArraySource(blobs).accumulate(search).counts.tolist() == [1000, 0]
    found = ArraySource(blobs).farthest(search)
    assert found.positions[0] >= 0
    assert (found.positions[1], found.distances[1]) == (-1, 0)


def test_a_cluster_of_vectors_on_its_centroid_has_no_farthest_one(search_factory, blobs):
    found = ArraySource(np.tile(blobs[:2], (50, 1))).farthest(search_factory(blobs[:2]))
    assert found.positions.tolist() == [-1, -1]


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("share", [(0.0, 0.1), (0.0, 0.5), (0.25, 0.5)])
def test_sums_and_farthest_vectors_of_a_share_are_those_of_its_vectors(search_factory, blobs, share):
    drawn = in_share(np.arange(1000), share)
    search = search_factory(blobs[:7] + 0.1)
    found, expected = ArraySource(blobs).accumulate(search, share), ArraySource(blobs[drawn]).accumulate(search)
    np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-9)
    farthest = ArraySource(blobs).farthest(search, share).positions
    np.testing.assert_array_equal(farthest, np.flatnonzero(drawn)[ArraySource(blobs[drawn]).farthest(search).positions])


def test_accumulate_leaves_the_number_of_threads_as_it_was(search_factory, blobs):
    before = torch.get_num_threads()
    ArraySource(blobs).accumulate(search_factory(blobs[:3]))
    assert torch.get_num_threads() == before


def test_chunks_of_wide_vectors_are_shorter():
    assert sources.chunk_rows(512) == 2048
    assert sources.chunk_rows(8192) == 512
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
    source = StoreSource(make_store(blobs, [300]))
    chunks = list(source.chunks())
    assert [len(positions) for positions, _ in chunks] == [256, 256, 256, 231]
    np.testing.assert_array_equal(np.concatenate([positions for positions, _ in chunks]), np.arange(999))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks]), np.delete(blobs, 300, axis=0))


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("share", [ALL, (0.0, 0.3)])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 4, 5])
def test_parts_divide_the_chunks_among_them(make_store, blobs, num_parts, share):
    store = make_store(blobs, [300])
    whole = np.concatenate(list(StoreSource(store).positions(share)))
    parts = [list(StoreSource(store, part=(number, num_parts)).chunks(share)) for number in range(num_parts)]
    np.testing.assert_array_equal(np.concatenate([positions for part in parts for positions, _ in part]), whole)
    if share == ALL:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        for positions, rows in part:
            np.testing.assert_array_equal(rows, np.delete(blobs, 300, axis=0)[positions])


@pytest.mark.parametrize("share", [ALL, (0.0, 0.3)])
def test_positions_are_those_of_the_chunks(blobs, share):
    source = ArraySource(blobs)
    (positions,), ((read, rows),) = list(source.positions(share)), list(source.chunks(share))
    np.testing.assert_array_equal(positions, read)
    np.testing.assert_array_equal(positions, np.flatnonzero(in_share(np.arange(1000), share)))
    np.testing.assert_array_equal(rows, blobs[positions])


@pytest.mark.usefixtures("short_chunks")
def test_the_chunks_of_a_share_are_as_long_as_others(blobs):
    """Short ones would be slow; each continues over several ranges of the disk."""
    source = ArraySource(np.tile(blobs, (10, 1)))
    lengths = [len(positions) for positions in source.positions((0.5, 0.625))]
    assert lengths == [len(rows) for _, rows in source.chunks((0.5, 0.625))]
    assert min(lengths[:-1]) >= 256
    assert max(lengths) < 2 * 256


@pytest.mark.parametrize("normalize", [False, True])
def test_the_extent_is_that_of_the_numbers(make_store, blobs, normalize):
    extent = StoreSource(make_store(blobs), Preprocessing(normalize=normalize)).extent
    rows = unit_rows(blobs) if normalize else blobs
    assert np.abs(rows).max() <= extent.largest
    if not normalize:
        assert extent.largest == np.abs(blobs).max()
    np.testing.assert_allclose(extent.typical, np.sqrt(np.square(rows, dtype=np.float64).mean()), rtol=1e-6)


def test_what_fails_in_reading_ahead_is_raised(blobs):
    rows = np.array(blobs)
    rows[999] = np.nan
    with pytest.raises(DataError, match=r"of 1 of 1000 samples are NaN or infinite, the first is sample 999"):
        ArraySource(rows).over_chunks(ChunkTask(lambda positions, rows, found: None))


def test_a_store_gives_the_samples_that_were_asked_for(make_store, blobs):
    source = StoreSource(make_store(blobs, [5]), indices=np.array([3, 5, 700]))
    assert source.sample_indices(np.arange(source.num_vectors)).tolist() == [3, 700]
    np.testing.assert_array_equal(source.take(np.array([0, 1])), blobs[[3, 700]])


def test_rows_in_memory_are_left_as_they_were(blobs):
    rows = (blobs * 3).astype(np.float32)
    before = rows.copy()
    source = ArraySource(rows, preprocessing=Preprocessing(normalize=True))
    np.testing.assert_array_equal(np.concatenate([prepared for _, prepared in source.chunks()]), unit_rows(before))
    np.testing.assert_array_equal(rows, before)


def test_rows_are_prepared_as_they_are_read(make_store, blobs):
    source = StoreSource(make_store(blobs), Preprocessing(normalize=True))
    np.testing.assert_allclose(np.linalg.norm(source.take(np.arange(1000)), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_counted(make_store, blobs, value):
    store = make_store(blobs, [1])
    hashes = dict(store.manifest["sha256"])
    for shard_start, rows in ((100, [7, 8]), (500, [0])):
        path = store.folder / f"rows-{shard_start:012d}-{shard_start + 100:012d}.npy"
        damaged = artifacts.read_array(path)
        damaged[rows, 3] = value
        hashes[path.name] = artifacts.write_array(path, damaged)
    rewrite_manifest(store.folder, sha256=hashes)  # what an extraction leaves that does not look at its numbers
    source = StoreSource(FeatureStore.open(store.folder), Preprocessing(normalize=True))
    with pytest.raises(DataError, match=r"features of 3 of 999 samples are NaN or infinite.* sample 107\. Extract"):
        list(source.chunks())
