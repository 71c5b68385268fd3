import os

import pytest

from vissl_clusterfit.config.compute import READERS_BY_RATE
from vissl_clusterfit.launch.compose.overrides import compose_overrides

AUTO = ("config=test/cpu_test/test_cpu_resnet_simclr", "config.DATA.NUM_DATALOADER_WORKERS=auto")


@pytest.mark.parametrize(
    ("cores", "overrides", "expected"),
    [
        (2, [], 1),
        (16, [], 2),
        (16, ["config.MACHINE.DEVICE=gpu"], 15),
        (16, ["config.MACHINE.DEVICE=gpu", "config.DISTRIBUTED.NUM_PROC_PER_NODE=4"], 3),
        (1, ["config.MACHINE.DEVICE=gpu"], 1),
        (96, ["config.MACHINE.DEVICE=gpu"], 16),
        (96, ["config.MACHINE.DEVICE=gpu", "config.SLURM.USE_SLURM=true", "config.SLURM.NUM_CPU_PER_PROC=8"], 7),
    ],
)
def test_auto_is_a_number_of_readers_for_the_cores_of_a_process(monkeypatch, cores, overrides, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    data = compose_overrides([*AUTO, *overrides])["config"]["DATA"]
    assert (data["NUM_DATALOADER_WORKERS"], data[READERS_BY_RATE]) == (expected, True)


def test_a_number_stays_what_it_is():
    found = compose_overrides([*AUTO, "config.DATA.NUM_DATALOADER_WORKERS=3"])
    assert found["config"]["DATA"]["NUM_DATALOADER_WORKERS"] == 3
    assert READERS_BY_RATE not in found["config"]["DATA"]
