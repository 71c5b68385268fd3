import logging
import multiprocessing
import time
from typing import Any

import numpy as np
import pytest
import torch
from stage_work import Numbers, convolutions, encode
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vissl_clusterfit.compute import folding
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError, TeacherError
from vissl_clusterfit.features.card import Card
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.writer import FeatureStoreWriter

INPUTS = {"dataset": {"fingerprint": "f"}}
SETTINGS = EncodingSettings(batch_size=3, shard_size=6)
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
LOWER = Compute("bfloat16", channels_last=True)


class SlowNumbers(Numbers):
    """Reading a sample waits, or takes a processor."""

    def __init__(self, count: int, *, waits_s: float = 0.0, works_s: float = 0.0) -> None:
        super().__init__(count)
        self.waits_s, self.works_s = waits_s, works_s
        self.was_read: Any = None

    def __getitem__(self, index: int):
        if self.was_read is not None:
            self.was_read.set()
        time.sleep(self.waits_s)
        ends = time.thread_time() + self.works_s
        while time.thread_time() < ends:
            pass
        return super().__getitem__(index)


def slow_encode(images):
    time.sleep(0.3)
    return encode(images)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("images", "network", "bound"),
    [
        (SlowNumbers(12), slow_encode, "the network"),
        (SlowNumbers(12, waits_s=0.1), encode, "reading files"),
        (SlowNumbers(12, works_s=0.1), encode, "decoding"),
    ],
    ids=["network", "reading", "decoding"],
)
def test_the_log_says_what_bounds_an_extraction(tmp_path, caplog, images, network, bound, num_workers):
    with caplog.at_level(logging.INFO):
        extract_features(images, lambda: network, tmp_path, INPUTS, SETTINGS, num_workers=num_workers)
    (line,) = [record.message for record in caplog.records if record.message.startswith("Extracted 12 samples, ")]
    assert f"What bounds it is {bound};" in line


def test_a_slow_disk_is_said_too(tmp_path, caplog, monkeypatch):
    write = FeatureStoreWriter.write

    def write_slowly(*args):
        time.sleep(0.1)
        write(*args)

    monkeypatch.setattr(FeatureStoreWriter, "write", write_slowly)
    with caplog.at_level(logging.INFO):
        extract_features(Numbers(24), lambda: encode, tmp_path, INPUTS, SETTINGS)
    assert "What bounds it is writing features;" in caplog.text


def test_a_shard_is_written_while_the_next_is_computed(tmp_path, monkeypatch):
    events, write = [], FeatureStoreWriter.write

    def write_slowly(self, shard, *args):
        time.sleep(0.2)
        write(self, shard, *args)
        events.append(f"written {shard.start}")

    def seen(images):
        events.append(f"computed {int(images[0, 0, 0, 0])}")
        return encode(images)

    monkeypatch.setattr(FeatureStoreWriter, "write", write_slowly)
    extract_features(Numbers(12), lambda: seen, tmp_path, INPUTS, SETTINGS)
    assert events.index("computed 6") < events.index("written 0")
    assert events[-1] == "written 6"


def test_images_are_read_while_the_network_is_loaded(tmp_path):
    images = SlowNumbers(12)
    read = multiprocessing.get_context("fork").Event()
    images.was_read = read

    def load():
        assert read.wait(30), "no image is read before the network is there"
        return encode

    extract_features(images, load, tmp_path, INPUTS, SETTINGS, num_workers=1)


def test_a_network_that_cannot_be_loaded_leaves_no_lease_and_no_process(tmp_path):
    def refuse():
        raise TeacherError("no such layer")

    with pytest.raises(TeacherError, match="no such layer"):
        extract_features(Numbers(21), refuse, tmp_path, INPUTS, SETTINGS, num_workers=1)
    assert list((tmp_path / "leases").iterdir()) == []
    assert multiprocessing.active_children() == []


def test_what_writing_raises_ends_the_extraction_and_its_leases(tmp_path, monkeypatch):
    def refuse(*_):
        raise ArtifactError("the disk is full")

    monkeypatch.setattr(FeatureStoreWriter, "write", refuse)
    with pytest.raises(ArtifactError, match="the disk is full"):
        extract_features(Numbers(21), lambda: encode, tmp_path, INPUTS, SETTINGS)
    assert list((tmp_path / "leases").iterdir()) == []


def test_norms_are_folded_in_float32_that_is_not_rounded():
    """A card's convolutions are rounded by default, so that what is the same network would not look like it."""

    def precisions():
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision

    def run():
        seen.append(precisions())
        return network(torch.ones(1, 1, 4, 4))

    seen = []
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    before = precisions()
    assert folding.fold_batch_norms(network, run) == 1
    assert set(seen) == {("ieee", "ieee")}
    assert precisions() == before


@needs_card
@pytest.mark.parametrize("compute", [PLAIN, LOWER])
def test_a_card_gives_the_features_of_a_processor(tmp_path, compute):
    stores = []
    for device in ("cpu", "cuda"):
        stores.append(
            extract_features(
                Numbers(21),
                lambda device=device: convolutions(compute, device),
                tmp_path / device,
                INPUTS,
                SETTINGS,
                num_workers=1,
                device=device,
            )
        )
    ours, theirs = (store.read(0, 21) for store in stores)
    np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02)


@needs_card
def test_a_card_is_not_waited_for_before_features_arrive():
    network, pixels = convolutions(PLAIN, "cuda"), torch.rand(64, 1, 2, 2).pin_memory()
    card = Card()
    with torch.inference_mode():
        card.features(network, pixels)()
        torch.cuda.set_sync_debug_mode("error")
        try:
            arrived = card.features(network, pixels)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert arrived().shape == (64, 16)


@pytest.fixture
def card_without_values(monkeypatch):
    """Tensors without values, whose devices are checked as a card's would be; autocast takes it that there is one."""
    if torch.__version__.startswith("2.9."):
        pytest.skip("PyTorch 2.9 asks a driver when it draws tensors without values")
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    with FakeTensorMode(), torch.no_grad():
        yield torch.device("cuda")


@pytest.mark.parametrize("compute", [PLAIN, Compute("bfloat16"), LOWER, Compute("float16", channels_last=True)])
def test_no_tensor_is_on_another_device_than_the_network(card_without_values, compute):
    with card_without_values:
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), *pool, nn.LayerNorm(8), nn.Linear(8, 5)]
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    encode_on_card = prepared(lambda images: network(images).float(), network, card_without_values, compute)
    features = encode_on_card(torch.rand(4, 3, 16, 16, device="cpu"))
    assert (features.device.type, features.dtype, features.shape) == ("cuda", torch.float32, (4, 5))
    assert {parameter.device.type for parameter in network.parameters()} == {"cuda"}
    assert layers[0].weight.dtype == compute.dtype


def test_a_norm_is_folded_on_its_device(card_without_values):
    convolution = nn.Conv2d(3, 8, 3, bias=False, device=card_without_values)
    norm = nn.BatchNorm2d(8, device=card_without_values, track_running_stats=False).eval()
    norm.running_mean, norm.running_var = torch.rand(2, 8, device=card_without_values)
    folding._fold(convolution, norm)
    assert convolution(torch.empty(2, 3, 8, 8, device=card_without_values)).device.type == "cuda"
    assert convolution.bias.device.type == "cuda"


def test_a_batch_on_the_processor_is_seen_as_a_mistake(card_without_values):
    """What the two tests above would notice."""
    network = nn.Linear(3, 2, device=card_without_values)
    with pytest.raises(RuntimeError, match="device"):
        network(torch.rand(4, 3))
