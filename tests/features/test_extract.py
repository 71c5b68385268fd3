import logging
import threading

import lease_work
import numpy as np
import pytest
import torch
from processes import context, running
from stage_work import Numbers, encode

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features import extract, pipeline
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.progress import display

INPUTS = {"dataset": {"fingerprint": "f"}}
SETTINGS = EncodingSettings(batch_size=3, shard_size=8, max_unreadable=0.2)


def encoder():
    return encode


def no_encoder():
    raise AssertionError("there is nothing to extract")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sample_has_its_row(tmp_path, num_workers):
    store = extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS, num_workers=num_workers)
    np.testing.assert_array_equal(store.read(0, 21), np.stack([np.arange(21), -np.arange(21)], axis=1))


def test_unreadable_samples_are_listed_and_their_rows_are_zero(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        store = extract_features(Numbers(21, frozenset({0, 8, 20})), encoder, tmp_path, INPUTS, SETTINGS)
    np.testing.assert_array_equal(store.unreadable, [0, 8, 20])
    np.testing.assert_array_equal(store.read(0, 21)[[0, 8, 20]], np.zeros((3, 2)))
    assert store.read(0, 21)[7, 0] == 7
    assert "3 of 21 samples could not be read" in caplog.text


def test_too_many_unreadable_samples_stop_the_run(tmp_path):
    with pytest.raises(DataError, match=r"MAX_UNREADABLE: found 5 of 21 samples unreadable \(23\.8%\)"):
        extract_features(Numbers(21, frozenset(range(5))), encoder, tmp_path, INPUTS, SETTINGS)


def test_what_is_there_is_not_extracted_again(tmp_path):
    first = extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS)
    again = extract_features(Numbers(21), no_encoder, tmp_path, INPUTS, SETTINGS)
    assert again.content_hash == first.content_hash


def test_a_stopped_extraction_goes_on(tmp_path):
    seen = []

    def failing_encoder():
        def encode_four(images):
            if len(seen) >= 4:
                raise KeyboardInterrupt
            seen.append(len(images))
            return encode(images)

        return encode_four

    with pytest.raises(KeyboardInterrupt):
        extract_features(Numbers(21), failing_encoder, tmp_path, INPUTS, SETTINGS)
    counted = []

    def counting_encoder():
        return lambda images: (counted.append(len(images)), encode(images))[1]

    store = extract_features(Numbers(21), counting_encoder, tmp_path, INPUTS, SETTINGS)
    assert sum(counted) == 21 - 8  # the first shard was done
    np.testing.assert_array_equal(store.read(0, 21)[:, 0], np.arange(21))


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="found an empty data set"):
        extract_features(Numbers(0), encoder, tmp_path, INPUTS, SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_images_of_several_shapes_are_refused(tmp_path):
    class Ragged(Numbers):
        def __getitem__(self, index):
            return torch.zeros(1, 2 + index % 2, 2), ""

    with pytest.raises(DataError, match=r"FEATURES\.TRANSFORMS: found transforms that give images of several shapes"):
        extract_features(Ragged(4), encoder, tmp_path, INPUTS, SETTINGS)


def test_other_inputs_are_refused_before_anything_is_read(tmp_path):
    extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS)
    with pytest.raises(ArtifactError, match=r"dataset\.fingerprint"):
        extract_features(Numbers(21), no_encoder, tmp_path, {"dataset": {"fingerprint": "g"}}, SETTINGS)


def test_progress_is_a_plain_log_line_without_a_terminal(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(display, "_FIRST_LINE_S", 0.0)
    monkeypatch.setattr(display, "_LINE_S", 0.0)
    with caplog.at_level(logging.INFO):
        extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS)
    lines = [record.message for record in caplog.records if record.message.startswith("Extracting:")]
    assert lines[0] == "Extracting: 0 %, 0 of 21 samples"
    assert lines[-1].startswith("Extracting: 90 %, 19 of 21 samples, ")


def test_what_another_process_holds_is_waited_for(tmp_path, monkeypatch):
    """Until it is done or free; those who wait start no processes that read images."""
    loaders = []

    def make_loader(*args, **options):
        loaders.append(torch.utils.data.DataLoader(*args, **options))
        return loaders[-1]

    monkeypatch.setattr(pipeline, "DataLoader", make_loader)
    monkeypatch.setattr(extract, "_LOOK_AGAIN_S", 0.02)
    held = context.Event()
    with running(lease_work.hold, tmp_path / "leases" / "000000000008.json", held) as process:
        assert held.wait(60)
        threading.Timer(0.5, process.kill).start()
        store = extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS)
    assert len(loaders) == 2
    np.testing.assert_array_equal(store.read(0, 21)[:, 0], np.arange(21))


def test_the_leases_are_gone_when_all_is_done(tmp_path):
    extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("rows-")) == [
        "manifest.json",
        "samples.npy",
        "unreadable.npy",
    ]


def test_a_damaged_shard_is_made_again_alone(tmp_path):
    """As the message about it says."""
    whole = extract_features(Numbers(21), encoder, tmp_path / "features", INPUTS, SETTINGS)
    (tmp_path / "features" / "rows-000000000008-000000000016.npy").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"rows-000000000008-000000000016\.npy"):
        extract_features(Numbers(21), no_encoder, tmp_path / "features", INPUTS, SETTINGS)
    for name in ("rows-000000000008-000000000016.npy", "rows-000000000008-000000000016.json", "manifest.json"):
        (tmp_path / "features" / name).unlink()
    counted = []

    def counting_encoder():
        return lambda images: (counted.append(len(images)), encode(images))[1]

    again = extract_features(Numbers(21), counting_encoder, tmp_path / "features", INPUTS, SETTINGS)
    assert sum(counted) == 8
    assert again.content_hash == whole.content_hash


def test_other_samples_are_refused_with_their_names(tmp_path):
    extract_features(Numbers(21), encoder, tmp_path, INPUTS, SETTINGS)

    class Renamed(Numbers):
        def name_of(self, index):
            return f"image{index}" if index != 5 else "renamed"

    with pytest.raises(ArtifactError, match=r"1 of 21 samples differ .*sample 5 is now 'renamed'"):
        extract_features(Renamed(21), no_encoder, tmp_path, INPUTS, SETTINGS)
