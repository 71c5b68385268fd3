import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import contents, rewrite_manifest, save_store

from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.features.store import FeatureStore, Shard, split_into_shards
from vissl_clusterfit.features.writer import FeatureStoreWriter

INPUTS = {"dataset": {"fingerprint": "f", "num_samples": 10}, "teacher": {"layer": "res5"}}
SAMPLES = hash_samples(map(str, range(10)))
ROWS = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def writer(folder, *, inputs=INPUTS, shard_size=4, dtype="float32") -> FeatureStoreWriter:
    return FeatureStoreWriter(folder, inputs, SAMPLES, shard_size=shard_size, dtype=dtype)


def complete_store(folder, unreadable=(), **kwargs) -> FeatureStore:
    making = writer(folder, **kwargs)
    making.begin()
    for shard in making.missing():
        here = {index: "truncated" for index in unreadable if shard.start <= index < shard.stop}
        making.write(shard, ROWS[shard.start : shard.stop], here)
    return making.finish()


def test_shards_cover_every_index_once():
    shards = split_into_shards(10, 4)
    assert shards == [Shard(0, 4), Shard(4, 8), Shard(8, 10)]


@given(num_samples=st.integers(0, 2000), shard_size=st.integers(1, 2500))
@settings(max_examples=200, deadline=None)
def test_shards_of_any_size_cover_every_index_once(num_samples, shard_size):
    shards = split_into_shards(num_samples, shard_size)
    assert [index for shard in shards for index in range(shard.start, shard.stop)] == list(range(num_samples))
    assert all(shard.stop - shard.start == shard_size for shard in shards[:-1])
    assert all(0 < shard.stop - shard.start <= shard_size for shard in shards)
    assert len({shard.rows_file for shard in shards} | {shard.done_file for shard in shards}) == 2 * len(shards)


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    rows = np.random.default_rng(1).standard_normal((103, 2)).astype(np.float32)
    return save_store(tmp_path_factory.mktemp("large") / "features", rows, shard_size=10), rows


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_range_and_any_rows_come_back(large_store, data):
    store, rows = large_store
    start = data.draw(st.integers(0, 103))
    stop = data.draw(st.integers(start, 103))
    np.testing.assert_array_equal(store.read(start, stop), rows[start:stop])
    indices = np.array(sorted(data.draw(st.sets(st.integers(0, 102)))), dtype=np.int64)
    np.testing.assert_array_equal(store.take(indices), rows[indices])


@pytest.mark.parametrize("bounds", [(-1, 5), (0, 104), (5, 4), (103, 104), (-3, -1)])
def test_rows_that_are_not_there_are_not_read(large_store, bounds):
    with pytest.raises(IndexError, match="of 103 samples"):
        large_store[0].read(*bounds)


@pytest.mark.parametrize("indices", [[-1], [103], [0, 500]])
def test_rows_that_are_not_there_are_not_taken(large_store, indices):
    with pytest.raises(IndexError, match="of 103 samples"):
        large_store[0].take(np.array(indices))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3)])
def test_rows_come_back_in_index_order(tmp_path, dtype, tolerance):
    store = complete_store(tmp_path, dtype=dtype, unreadable=[2, 9])
    assert (store.num_samples, store.dim, store.dtype) == (10, 3, dtype)
    np.testing.assert_array_equal(store.unreadable, [2, 9])
    for start, stop in [(0, 10), (3, 9), (4, 8), (9, 10), (5, 5)]:
        np.testing.assert_allclose(store.read(start, stop), ROWS[start:stop], atol=tolerance)
    np.testing.assert_allclose(store.take(np.array([0, 3, 4, 9])), ROWS[[0, 3, 4, 9]], atol=tolerance)
    assert store.read(0, 2).dtype == np.float32


def test_writing_goes_on_where_it_stopped(tmp_path):
    first = writer(tmp_path)
    first.begin()
    first.write(Shard(4, 8), ROWS[4:8], {})
    with pytest.raises(ArtifactError, match="incomplete: its extraction has not finished"):
        FeatureStore.open(tmp_path)
    second = writer(tmp_path, shard_size=5)
    second.begin()
    assert second.missing() == [Shard(0, 4), Shard(8, 10)]
    with pytest.raises(ArtifactError, match="2 of 3 shards are missing, the first holds the samples 0 to 3"):
        second.finish()
    for shard in second.missing():
        second.write(shard, ROWS[shard.start : shard.stop], {})
    np.testing.assert_array_equal(second.finish().read(0, 10), ROWS)


def test_rows_without_their_done_file_are_written_again(tmp_path):
    making = writer(tmp_path)
    making.begin()
    making.write(Shard(0, 4), ROWS[:4], {})
    (tmp_path / Shard(0, 4).done_file).unlink()
    assert Shard(0, 4) in making.missing()


def test_the_same_features_have_the_same_hash(tmp_path):
    one, same = complete_store(tmp_path / "one"), complete_store(tmp_path / "same")
    other = complete_store(tmp_path / "other", inputs={**INPUTS, "dtype": "float16"})
    assert one.content_hash == same.content_hash != other.content_hash


def test_a_store_of_another_run_is_refused_with_the_difference(tmp_path):
    complete_store(tmp_path)
    other = {**INPUTS, "teacher": {"layer": "res4"}}
    with pytest.raises(ArtifactError, match=r'teacher\.layer: it was made with "res5", this run has "res4"'):
        FeatureStore.open(tmp_path, other)
    with pytest.raises(ArtifactError, match="made from other data or settings"):
        writer(tmp_path, inputs=other).begin()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(tmp_path, value):
    making = writer(tmp_path)
    making.begin()
    rows = ROWS[4:8].copy()
    rows[2, 1] = value
    with pytest.raises(DataError, match="1 of the samples 4 to 7, the first is sample 6"):
        making.write(Shard(4, 8), rows, {})
    assert Shard(4, 8) in making.missing()


def test_features_that_overflow_float16_are_refused(tmp_path):
    making = writer(tmp_path, dtype="float16")
    making.begin()
    with pytest.raises(DataError, match=r"with FEATURES\.DTYPE=float16, try float32"):
        making.write(Shard(0, 4), np.full((4, 3), 1e5, dtype=np.float32), {})


def test_a_shard_of_another_shape_is_named(tmp_path):
    complete_store(tmp_path)
    np.save(tmp_path / Shard(4, 8).rows_file, ROWS[:3])
    with pytest.raises(ArtifactError, match=r"rows-0*4-0*8\.npy must hold \(4, 3\) of float32, found \(3, 3\)"):
        FeatureStore.open(tmp_path)


def test_shards_of_different_widths_are_refused(tmp_path):
    making = writer(tmp_path, shard_size=5)
    making.begin()
    making.write(Shard(0, 5), ROWS[:5], {})
    making.write(Shard(5, 10), ROWS[5:, :2], {})
    with pytest.raises(ArtifactError, match=r"shards of different widths \(\[2, 3\]\)"):
        making.finish()


def test_the_manifest_can_be_read_with_the_standard_library(tmp_path):
    complete_store(tmp_path, unreadable=[7])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["unreadable"] == [{"index": 7, "reason": "truncated"}]
    assert manifest["num_unreadable"] == 1
    assert manifest["inputs"] == INPUTS
    assert sorted(manifest["sha256"]) == sorted(
        [shard.rows_file for shard in split_into_shards(10, 4)] + ["samples.npy", "unreadable.npy"]
    )


def test_one_who_is_refused_leaves_the_sample_list_as_it_was(tmp_path):
    """Two runs with other data may begin at once: the folder is the one's whose manifest is there first."""
    writer(tmp_path).begin()
    before = contents(tmp_path)
    others = hash_samples(map(str, range(7)))
    with pytest.raises(ArtifactError, match="made from other data or settings"):
        FeatureStoreWriter(tmp_path, {"dataset": "other"}, others, shard_size=4, dtype="float32").begin()
    assert contents(tmp_path) == before


def test_a_sample_list_that_was_not_written_is_written_at_the_next_start(tmp_path):
    writer(tmp_path).begin()
    (tmp_path / "samples.npy").unlink()
    assert complete_store(tmp_path).manifest["sha256"]["samples.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "samples.npy"), SAMPLES)


def test_what_a_killed_process_left_is_removed_before_room_is_needed(tmp_path):
    half = tmp_path / ".rows-000000000000-000000000004.npy.0a1b2c3d-12-3456-0123456789abcdef.tmp"
    half.touch()
    os.utime(half, (0, 0))
    writer(tmp_path).begin()
    assert not half.exists()


@pytest.mark.parametrize(
    "changes",
    [{"num_samples": 9}, {"dim": 4}, {"dtype": "float16"}, {"shard_size": 5}, {"num_unreadable": 1}, {"sha256": {}}],
)
def test_a_manifest_that_does_not_fit_the_shards_is_refused(tmp_path, changes):
    complete_store(tmp_path)
    rewrite_manifest(tmp_path, **changes)
    with pytest.raises(ArtifactError, match=r"must hold|do not cover its|is missing"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize("name", ["dim", "shard_size", "num_samples", "content_hash", "num_unreadable", "sha256"])
def test_a_manifest_that_lacks_a_fact_is_refused(tmp_path, name):
    complete_store(tmp_path)
    rewrite_manifest(tmp_path, **{name: None})
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize("name", ["rows-000000000004-000000000008.npy", "unreadable.npy"])
def test_a_missing_file_is_named(tmp_path, name):
    complete_store(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        FeatureStore.open(tmp_path)
