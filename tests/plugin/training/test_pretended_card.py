"""What a step of a training adds to the network, on tensors that say they are on a card: no mistake, and few waits."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from pretend_card import pretended_card
from vissl.config import AttrDict

from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.plugin.training import compute as training_compute
from vissl_clusterfit.plugin.training import divergence
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


@pytest.mark.parametrize(("value", "ends"), [(1.0, False), (3e38, False), (float("nan"), True), (float("inf"), True)])
def test_looking_for_what_is_no_number_waits_once_for_an_output_and_not_for_the_loss(card, value, ends):
    output = torch.tensor([[0.5, value, 1.0], [value, 0.0, 2.0]]).to("cuda")
    task = SimpleNamespace(last_batch=SimpleNamespace(model_output=output), iteration=7, train_phase_idx=0)
    card.waits.clear()
    with pytest.raises(ConfigError, match="an output of the network at iteration 7") if ends else nullcontext():
        divergence.end_at_output(None, task)
    assert card.waits.total() == (1 if value == 1.0 else 2)
    task.losses, task.last_batch.loss = [value * 4], torch.tensor(value).to("cuda")
    card.waits.clear()
    with pytest.raises(ConfigError, match="a loss at iteration 7") if ends else nullcontext():
        divergence.end_at_loss(None, task)
    assert not card.waits
