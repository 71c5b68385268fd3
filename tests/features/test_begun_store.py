"""A store that was begun by a command with a mistake, and stores of few samples."""

import logging
import os

import numpy as np
import pytest
import torch
from stage_work import Numbers

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_names import NAMES_FILE, NameList
from vissl_clusterfit.storage.leases import Lease

SETTINGS = EncodingSettings(batch_size=4, shard_size=8)


def wrong_encoder():
    def encode(pixels):
        raise DataError("no such layer")

    return encode


def right_encoder():
    return lambda pixels: pixels.flatten(1)


def extract(folder, inputs, encoder, count=30, settings=SETTINGS):
    return extract_features(Numbers(count, frozenset()), encoder, folder, inputs, settings)


def test_a_mistake_that_is_mended_blocks_nothing(tmp_path, caplog):
    with pytest.raises(DataError, match="no such layer"):
        extract(tmp_path, {"layer": "res9"}, wrong_encoder)
    with caplog.at_level(logging.INFO):
        store = extract(tmp_path, {"layer": "res5"}, right_encoder)
    assert store.inputs == {"layer": "res5"}
    assert "has no row yet: it is begun again" in caplog.text
    with pytest.raises(ArtifactError, match="layer: it was made with"):
        extract(tmp_path, {"layer": "res4"}, right_encoder)


def test_other_data_before_the_first_row(tmp_path):
    with pytest.raises(DataError):
        extract(tmp_path, {"layer": "res5"}, wrong_encoder)
    assert extract(tmp_path, {"layer": "res5"}, right_encoder, count=20).num_samples == 20


def named(*names):
    kept = NameList()
    assert list(kept.passing(names)) == list(names)
    return kept


def test_names_of_a_command_with_a_mistake_do_not_stay(tmp_path):
    """Nor do names that a crash cut before the store was complete."""
    folder, inputs, data = tmp_path / "store", {"layer": "res5"}, Numbers(2, frozenset())
    with pytest.raises(DataError):
        extract_features(data, wrong_encoder, folder, {"layer": "res9"}, SETTINGS, names=named("a", "b"))
    extract(folder, inputs, right_encoder, count=2)
    assert not (folder / NAMES_FILE).exists()

    folder = tmp_path / "another"
    with pytest.raises(DataError):
        extract_features(data, wrong_encoder, folder, inputs, SETTINGS, names=named("a", "b"))
    whole = (folder / NAMES_FILE).read_bytes()
    os.truncate(folder / NAMES_FILE, len(whole) // 2)
    extract_features(data, right_encoder, folder, inputs, SETTINGS, names=named("a", "b"))
    assert (folder / NAMES_FILE).read_bytes() == whole


def test_what_another_run_has_begun_stays(tmp_path):
    with pytest.raises(DataError):
        extract(tmp_path, {"layer": "res9"}, wrong_encoder)
    lease = Lease(tmp_path / "leases" / "000000000000.json")
    assert lease.acquire()
    with pytest.raises(ArtifactError, match="layer: it was made with"):
        extract(tmp_path, {"layer": "res5"}, right_encoder)
    lease.release()


def test_rows_of_one_run_do_not_come_into_the_store_of_another(tmp_path):
    def encoder_that_is_late():
        def encode(pixels):
            for lease in (tmp_path / "leases").iterdir():
                lease.unlink()  # as if it had been lost
            with pytest.raises(DataError):
                extract(tmp_path, {"layer": "res5"}, wrong_encoder)
            return pixels.flatten(1)

        return encode

    with pytest.raises(ArtifactError, match='layer: it was made with "res5", this run has "res9"'):
        extract(tmp_path, {"layer": "res9"}, encoder_that_is_late)
    assert list(tmp_path.glob("rows-*")) == []


@pytest.mark.parametrize("count, shards", [(3, 1), (64, 16), (1000, 16), (4096, 16), (4097, 2)])
def test_small_splits_have_some_shards_with_the_same_batches(tmp_path, count, shards):
    batches = []

    def encoder():
        def encode(pixels):
            batches.append(len(pixels))
            return torch.ones(len(pixels), 2)

        return encode

    store = extract(tmp_path / "own", {}, encoder, count, EncodingSettings(batch_size=4))
    assert len(list((tmp_path / "own").glob("rows-*.npy"))) == shards
    of_default, batches = batches, []
    whole = extract(tmp_path / "one", {}, encoder, count, EncodingSettings(batch_size=4, shard_size=4096))
    assert batches == of_default
    np.testing.assert_array_equal(store.read(0, count), whole.read(0, count))


def test_unreadable_samples_are_named(tmp_path, caplog):
    images = Numbers(30, frozenset(range(3, 30, 3)))
    with caplog.at_level(logging.WARNING), pytest.raises(DataError) as refused:
        extract_features(images, right_encoder, tmp_path, {}, SETTINGS)
    name = images.name_of(3)
    assert f"among them {name} (" in str(refused.value)
    assert f"Unreadable: {name} (" in caplog.text
