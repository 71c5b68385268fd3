"""What a step of a training adds to the network, on tensors that say they are on a card: no mistake, and few waits."""

from types import SimpleNamespace

import pytest
import torch
from pretend_card import pretended_card
from vissl.config import AttrDict

from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.plugin.training import compute as training_compute
from vissl_clusterfit.plugin.training.loss import ClusterFitLoss
from vissl_clusterfit.plugin.training.meter import ClusterAccuracyMeter


@pytest.fixture
def card(monkeypatch):
    with pretended_card(monkeypatch) as card, torch.no_grad():
        yield card


@pytest.mark.parametrize("weighting", ["none", "inverse"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_labels_waits_for_nothing(card, weighting, smoothing):
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, -1, 2, 2, -1])
    loss = ClusterFitLoss([5], cluster_weighting=weighting, label_smoothing=smoothing)
    loss.set_cluster_sizes(0, torch.tensor([1, 2, 3, 4, 5]))
    expected = loss(logits, labels)
    on_card = loss.to("cuda")
    card.waits.clear()
    found = on_card(logits.to("cuda"), labels.to("cuda"))
    assert not card.waits
    torch.testing.assert_close(found.cpu(), expected)


def test_the_network_of_a_training_waits_for_nothing(card):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)).to("cuda")
    task = SimpleNamespace(device=torch.device("cuda"), config=AttrDict({"TEST_ONLY": False}))
    training_compute._apply(Compute("bfloat16"), task, model)
    card.waits.clear()
    assert model(torch.randn(4, 3, 8, 8, device="cuda")).dtype == torch.float32
    assert not card.waits


def test_a_meter_takes_what_is_on_a_card(card):
    meter = ClusterAccuracyMeter(num_meters=1, topk_values=[1], meter_names=[])
    meter.update(torch.eye(3).to("cuda"), torch.tensor([0, 1, -1]).to("cuda"))
    assert meter.value["top_1"][0] == 100.0
