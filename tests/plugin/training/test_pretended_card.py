"""What a step of a training adds to the network, on tensors that say they are on a card: no mistake, and few waits."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from pretend_card import OnCard, pretended_card
from tiny import STUDENT
from vissl.config import AttrDict
from vissl.hooks import default_hook_generator
from vissl.trainer import SelfSupervisionTrainer
from vissl.trainer.train_steps.standard_train_step import standard_train_step
from vissl.trainer.trainer_main import build_task

from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.batches import ArrivedBatches, changed
from vissl_clusterfit.plugin.training import compute as training_compute
from vissl_clusterfit.plugin.training import divergence, progress_hook
from vissl_clusterfit.plugin.training.loss import ClusterFitLoss
from vissl_clusterfit.plugin.training.meter import ClusterAccuracyMeter
from vissl_clusterfit.plugin.training.progress_hook import WatchedBatches


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


def test_the_memory_of_a_batch_is_not_given_to_another_while_the_network_reads_it(card, monkeypatch):
    """VISSL copies in a stream of its own, whose memory is free for it when Python has dropped a batch."""
    kept = []
    monkeypatch.setattr(OnCard, "record_stream", lambda tensor, _: kept.append(tensor))
    batch = {"data": [torch.ones(2, 3, device="cuda")], "label": [torch.ones(2, device="cuda")], "here": torch.ones(2)}
    (found,) = ArrivedBatches([batch], None)
    assert {*map(id, kept)} == {id(found["data"][0]), id(found["label"][0])}


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


@pytest.fixture
def training(tmp_path, monkeypatch, images):
    """A training by VISSL's task, with its hooks, loss, optimizer and data, from a config and its overrides."""

    def begun(*overrides):
        cfg = compose(
            [
                *STUDENT,
                f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
                "config.DATA.TRAIN.LABEL_SOURCES=[disk_folder]",
                "config.DATA.NUM_DATALOADER_WORKERS=0",
                "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[2048,3]}]]",
                "config.LOSS.name=cross_entropy_multiple_output_single_target",
                "config.CLUSTERFIT.COMPUTE.PRECISION=float32",
                f"config.CHECKPOINT.DIR={tmp_path}",
                *overrides,
            ]
        )[2]
        monkeypatch.setattr(progress_hook, "keep_all_freed_memory", bool)  # or all later tests of the process had it
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            monkeypatch.setenv(name, value)
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        task = build_task(cfg)
        task.set_checkpoint_folder(str(tmp_path))
        task.set_checkpoint_path(None)
        task.set_hooks(default_hook_generator(cfg))
        task.prepare(pin_memory=False)
        SelfSupervisionTrainer._init_training_state(cfg, task)
        task.run_hooks("on_start")
        SelfSupervisionTrainer._advance_phase(None, task)
        task.local_iteration_num = 0
        task.run_hooks("on_phase_start")
        return task

    yield begun
    dist.destroy_process_group()


class Travelling:
    """Batches of a loader on the card, as VISSL's wrapper of it copies them."""

    def __init__(self, batches):
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __next__(self):
        return changed(next(self._batches), torch.Tensor, lambda tensor: tensor.to("cuda", non_blocking=True))


_OF_METERS = ["config.METERS.name=accuracy_list_meter", "config.METERS.enable_training_meter=true"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["config.METERS.name=", "config.HOOKS.CHECK_NAN=true"],
        ["config.METERS.name=", "config.HOOKS.CHECK_NAN=false"],  # VISSL's own hook looks then
        [*_OF_METERS, "config.HOOKS.CHECK_NAN=true"],
    ],
    ids=["looking for NaN", "looking as VISSL does", "meters"],
)
def test_a_step_of_vissls_waits_for_what_the_documents_list_and_a_logged_one_once_more(
    training, monkeypatch, overrides
):
    task = training(*overrides, "config.LOG_FREQUENCY=1000")
    with pretended_card(monkeypatch, has_backward=True) as card:
        task.base_model.to("cuda")
        task.base_loss.to("cuda")
        task.device = torch.device("cuda")
        task.data_iterator = WatchedBatches(Travelling(task.data_iterator))
        # The outputs are looked at, VISSL's loss looks for labels that are too large, and its step takes the loss as a
        # number. Meters get outputs, labels each, and which samples could be read.
        waits = 3 + (2 + len(task.meters) if task.meters else 0)
        weights = next(task.base_model.parameters()).detach().clone()
        counted = {}
        for iteration in (7, 8, 10):  # a tenth step is logged, as are those at multiples of five up to a hundred
            task.iteration = iteration
            card.waits.clear()
            standard_train_step(task)
            counted[iteration] = card.waits.total()
        assert counted == {7: waits, 8: waits, 10: waits + 1}, card.waits
        assert not torch.equal(next(task.base_model.parameters()).values, weights.values)
