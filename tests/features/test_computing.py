"""How features are computed is that of the first artefact of the same network, or what is measured."""

import copy

import numpy as np
import pytest
import torch
from stage_work import Numbers, encode
from torch import nn

from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.compute import ComputeSettings
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features import computing
from vissl_clusterfit.features.computing import NOTE_NAME, chosen_compute, measured_compute, stores_beside
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.storage import artifacts

LOWER = Compute("bfloat16", channels_last=True)
NETWORK = {"teacher": {"weights_sha256": "a"}}
SETTINGS = EncodingSettings(batch_size=3, shard_size=8)
AUTO = ComputeSettings()


def never():
    raise AssertionError("there is nothing to measure")


def store(folder, compute: Compute, network=NETWORK):
    inputs = {"dataset": {}, **network, **compute.inputs()}
    return extract_features(Numbers(9), lambda: encode, folder, inputs, SETTINGS)


@pytest.mark.parametrize("compute", [PLAIN, LOWER])
def test_what_a_store_says_is_taken(tmp_path, compute):
    store(tmp_path / "train", compute)
    for folder in ("train", "test"):
        assert chosen_compute(AUTO, lambda: NETWORK, stores_beside(tmp_path / folder), never) == compute


def test_labels_say_what_their_features_were(tmp_path):
    inputs = {"features": {**NETWORK, **LOWER.inputs()}, "codebook": {}}
    artifacts.write_manifest(tmp_path / "labels", "pseudo_labels", inputs, {})
    assert chosen_compute(AUTO, lambda: NETWORK, [tmp_path / "none", tmp_path / "labels"], never) == LOWER


def test_a_store_of_another_network_says_nothing(tmp_path):
    store(tmp_path / "train", LOWER, {"teacher": {"weights_sha256": "b"}})
    found = chosen_compute(AUTO, lambda: NETWORK, stores_beside(tmp_path / "test"), lambda: (PLAIN, True))
    assert found == PLAIN


def test_what_is_asked_for_is_done_without_a_look(tmp_path):
    store(tmp_path / "train", PLAIN)
    asked = ComputeSettings(precision="bfloat16", channels_last=False)
    assert chosen_compute(asked, never, stores_beside(tmp_path / "train"), never) == Compute("bfloat16")


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        (PLAIN, LOWER, r'compute\.precision: it was made with "float32", this run has "bfloat16"'),
        (LOWER, PLAIN, r'compute\.precision: it was made with "bfloat16", this run has "float32"'),
        (Compute("bfloat16"), LOWER, r"compute\.channels_last: it was made with false, this run has true"),
    ],
)
def test_another_precision_is_refused_with_the_difference(tmp_path, was, now, message):
    store(tmp_path, was)
    with pytest.raises(ArtifactError, match=message):
        store(tmp_path, now)


def test_a_measurement_is_noted_until_there_is_a_store(tmp_path, monkeypatch):
    note = tmp_path / "features" / NOTE_NAME
    assert chosen_compute(AUTO, lambda: NETWORK, [], lambda: (LOWER, True), note) == LOWER
    monkeypatch.setattr(computing, "_FOUND", {})  # as in another process
    assert chosen_compute(AUTO, lambda: NETWORK, [], never, note) == LOWER
    other = {"teacher": {"weights_sha256": "b"}}
    assert chosen_compute(AUTO, lambda: other, [], lambda: (PLAIN, True), note) == PLAIN


def test_a_small_network_leaves_no_note(tmp_path):
    note = tmp_path / "features" / NOTE_NAME
    how = measured_compute(AUTO, Numbers(9), lambda compute: encode, torch.device("cpu"))
    assert how == (PLAIN, False)
    assert chosen_compute(AUTO, lambda: NETWORK, [], lambda: how, note) == PLAIN
    assert list(tmp_path.iterdir()) == []


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index)), ""


def test_a_network_is_measured_with_the_first_images(caplog):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), *(nn.Conv2d(32, 32, 3) for _ in range(5))]
    built = []

    def build(compute: Compute):
        network = copy.deepcopy(nn.Sequential(*layers)).eval().requires_grad_(False)
        built.append(compute)
        return prepared(lambda images: network(images).float().mean(dim=(2, 3)), network, torch.device("cpu"), compute)

    with caplog.at_level("INFO"):
        found, is_measured = measured_compute(AUTO, Noise(), build, torch.device("cpu"))
    assert is_measured
    assert found in built
    assert built[0] == PLAIN
    assert "Measured against float32: " in caplog.text


def test_features_in_lower_precision_are_said_to_be(tmp_path):
    assert store(tmp_path / "a", LOWER).manifest["inputs"]["compute"] == {
        "precision": "bfloat16",
        "channels_last": True,
        "compile": False,
    }
    plain = store(tmp_path / "b", PLAIN)
    assert "compute" not in plain.manifest["inputs"]
    np.testing.assert_array_equal(plain.read(0, 9)[:, 0], np.arange(9))
