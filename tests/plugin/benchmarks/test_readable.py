"""VISSL's meters get the samples that could be read, in its own task."""

from types import SimpleNamespace

import pytest
import torch
from vissl.config import AttrDict
from vissl.trainer.train_task import SelfSupervisionTask

from vissl_clusterfit.plugin.benchmarks.readable import COUNTS, describe_counts


@pytest.fixture
def task():
    """As the trainer has it; the method that builds its meters is VISSL's with our change."""
    meters = {
        "names": ["accuracy_list_meter"],
        "accuracy_list_meter": {"num_meters": 2, "topk_values": [1], "meter_names": ["res4", "res5"]},
    }
    task = SimpleNamespace(config={"METERS": AttrDict(meters)}, train=False, last_batch=SimpleNamespace(sample={}))
    task.meters = SelfSupervisionTask._build_meters(task)
    return task


def take(task, predicted, target, valid):
    task.last_batch.sample = {"data_valid": [torch.tensor(valid)]}
    outputs = [torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()] * 2
    for meter in task.meters:
        meter.update(outputs, torch.tensor(target))


def test_stand_ins_are_left_out_and_counted(task):
    take(task, [0, 1, 2, 0], [0, 1, 0, 1], [1, 1, -1, 1])
    take(task, [1, 1], [0, 0], [-1, -1])
    for meter in task.meters:
        meter.sync_state()
    accuracy, counts = task.meters
    assert accuracy.value["top_1"] == pytest.approx({"res4": 200 / 3, "res5": 200 / 3})
    line = {f"test_{meter.name}": meter.value for meter in task.meters}
    assert line[COUNTS] == {"readable": {"0": 3}, "samples": {"0": 6}}
    assert describe_counts(line) == "3 of 6 test samples, the others could not be read"
    for meter in task.meters:
        meter.reset()
    assert counts.value == {"readable": {"0": 0}, "samples": {"0": 0}}


def test_where_all_can_be_read_a_row_says_nothing(task):
    take(task, [0, 1], [0, 0], [1, 1])
    assert task.meters[0].value["top_1"]["res5"] == 50
    assert describe_counts({COUNTS: task.meters[1].value}) == ""
    assert describe_counts({}) == ""


def test_training_is_vissls_own(task):
    task.train = True
    take(task, [0, 1], [0, 0], [1, -1])
    assert task.meters[0].value["top_1"]["res5"] == 50
