import logging
import time

import numpy as np
import pytest
import torch
from stage_work import Numbers, encode

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.features import pipeline
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.readers import MOST, measured_readers, num_readers
from vissl_clusterfit.features.spent import Clock

INPUTS = {"dataset": {"fingerprint": "f"}}
DECODING = Clock(0.0027, 0.0)


@pytest.mark.parametrize(
    ("reading", "network_s", "cores", "on_card", "expected"),
    [
        (DECODING, 0.043, 2, False, 1),  # a ResNet-50 in bfloat16, as docs/performance.md has it
        (DECODING, 0.0003, 2, False, 2),  # what a processor has for both
        (DECODING, 0.043, 64, False, 5),
        (DECODING, 0.2, 64, False, 2),
        (DECODING, 1e-6, 1, False, 1),
        (DECODING, 1 / 2500, 32, True, 9),
        (DECODING, 1 / 100, 32, True, 1),
        (DECODING, 1 / 2500, 4, True, 3),  # all cores but one, and too few
        (DECODING, 1 / 2500, 1, True, 1),
        (DECODING, 1 / 50000, 96, True, MOST),
        (Clock(0.0027, 0.02), 0.043, 2, False, 2),  # another machine's files: waiting takes no core
        (Clock(0.0027, 0.02), 1 / 400, 4, True, 12),
    ],
)
def test_so_many_read_as_keep_ahead_of_the_network(reading, network_s, cores, on_card, expected):
    assert num_readers(reading, network_s, cores, on_card=on_card) == expected


@pytest.mark.parametrize("cores", [2, 16, 96])
@pytest.mark.parametrize("network_s", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("on_card", [False, True])
def test_none_is_short_and_none_is_needless(cores, network_s, on_card):
    number = num_readers(DECODING, network_s, cores, on_card=on_card)
    wanted = 1 / network_s if on_card else cores / (network_s + DECODING.busy)
    supplied = number / DECODING.busy
    bounds = (MOST, max(1, cores - 1) if on_card else cores)
    assert supplied >= wanted or number in bounds
    assert (number - 1) / DECODING.busy < 1.25 * wanted
    assert number <= min(bounds)


class Costly(Numbers):
    """Reading a sample takes a processor for a while."""

    works_s = 0.004

    def __getitem__(self, index: int):
        ends = time.thread_time() + self.works_s
        while time.thread_time() < ends:
            pass
        return super().__getitem__(index)


def costly_network(works_s):
    def encode_slowly(images: torch.Tensor) -> torch.Tensor:
        ends = time.process_time() + works_s * len(images)
        while time.process_time() < ends:
            pass
        return encode(images)

    return encode_slowly


@pytest.mark.parametrize(("works_s", "expected"), [(0.2, 1), (0.002, range(10, 15))])
def test_both_rates_are_measured_and_said(caplog, works_s, expected):
    with caplog.at_level(logging.INFO):
        number = measured_readers(Costly(100), costly_network(works_s), 4, "cpu", cores=16)
    assert number == expected if isinstance(expected, int) else number in expected
    (line,) = [record.message for record in caplog.records if record.message.startswith("Processes that read")]
    words = line.split()
    assert words[4] == f"{number}."
    assert 150 <= int(words[words.index("decodes") + 1]) <= 260
    assert int(words[words.index("takes") + 1]) == pytest.approx(16 / works_s, rel=0.1)


def test_features_are_the_same_whatever_the_number_and_few_images_are_not_measured_for(tmp_path, monkeypatch):
    settings, stores, asked = EncodingSettings(batch_size=3, shard_size=6), [], []

    def measured(*args):
        asked.append(args)
        return 2

    monkeypatch.setattr(pipeline, "measured_readers", measured)
    for name, count, workers in (("none", 60, 0), ("measured", 60, None), ("few", 30, None)):
        images = Numbers(count)
        stores.append(extract_features(images, lambda: encode, tmp_path / name, INPUTS, settings, num_workers=workers))
    assert len(asked) == 1
    np.testing.assert_array_equal(stores[0].read(0, 60), stores[1].read(0, 60))
    np.testing.assert_array_equal(stores[0].read(0, 30), stores[2].read(0, 30))
