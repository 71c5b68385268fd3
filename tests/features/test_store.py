import json

import numpy as np
import pytest

from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features.samples import hash_samples
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
