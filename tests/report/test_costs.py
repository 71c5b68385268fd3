"""Hours of each stage: added up over starts, in the order of the stages, and those of child processes with them."""

import multiprocessing
import time

import pytest

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.report.costs import COSTS_NAME, add_costs, core_seconds, describe_costs, read_costs


def test_starts_add_up(tmp_path):
    assert read_costs(tmp_path) == {}
    add_costs(tmp_path, "train", seconds=1800, of_cores=3600, gpus=0)
    add_costs(tmp_path, "extract", seconds=360, of_cores=720, gpus=0)
    add_costs(tmp_path, "train", seconds=1800, of_cores=3600, gpus=0)
    found = read_costs(tmp_path)
    assert found["train"] == {"hours": 1.0, "core_hours": 2.0, "gpu_hours": 0.0}
    assert describe_costs(found) == "extract 0.2, train 2 core hours"


def test_gpus_count_as_long_as_they_are_held(tmp_path):
    add_costs(tmp_path, "train", seconds=7200, of_cores=100, gpus=8)
    assert describe_costs(read_costs(tmp_path)) == "train 16 GPU hours"


def test_a_damaged_file_is_said(tmp_path):
    (tmp_path / COSTS_NAME).write_text("{}")
    with pytest.raises(ArtifactError, match="it has no stages"):
        read_costs(tmp_path)


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_processes_that_still_run_are_counted_once():
    before = core_seconds()
    child = multiprocessing.get_context("fork").Process(target=_work, args=(0.5,))
    child.start()
    while core_seconds() < before + 0.1:
        time.sleep(0.05)
    assert child.is_alive()
    child.join()
    assert 0.4 < core_seconds() - before < 1.0
