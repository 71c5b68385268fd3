"""A real training whose epochs are drawn balanced over clusters."""

import re
import shutil

import pytest
import torch
from checkpoint_parts import network_of
from tiny import NO_CHANCE

BALANCED = (
    NO_CHANCE,
    "config.CLUSTERFIT.BALANCED_SAMPLES=12",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
    "config.OPTIMIZER.num_epochs=3",
    "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=1",
    "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
)


def same(one, other):
    one, other = network_of(one), network_of(other)
    return all(torch.equal(one[part][name], other[part][name]) for part in one for name in one[part])


def test_an_epoch_is_a_draw_and_goes_on_where_it_was_stopped(train, tmp_path):
    said, whole = train("whole", *BALANCED)
    assert "One epoch = 3 iterations" in said
    assert whole["iteration"] == 9
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    taken = [path.name for path in (tmp_path / "stopped").glob("*.torch")]
    for name in taken:  # all that was made after the fifth step, in the middle of the second epoch
        number = re.fullmatch(r"model_iteration(\d+)\.torch", name)
        if number is None or int(number[1]) > 5:
            (tmp_path / "stopped" / name).unlink()
    left = sorted(path.name for path in (tmp_path / "stopped").glob("model_iteration*.torch"))
    assert left, taken
    said, resumed = train("stopped", *BALANCED)
    assert resumed["iteration"] == 9
    assert same(resumed, whole)
    said, _ = train("whole", *BALANCED, "config.CLUSTERFIT.BALANCED_SAMPLES=16", code=2)
    assert "balanced_samples: it was made with 12, this run has 16" in said


@pytest.mark.slow
def test_two_processes_train_on_the_draw_of_one(train):
    one = train("one", *BALANCED)[1]
    two = train(
        "two",
        *BALANCED,
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=2",
    )[1]
    assert one["iteration"] == two["iteration"] == 9
