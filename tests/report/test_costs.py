"""Hours of each stage: added up over starts, in the order of the stages, and those of child processes with them."""

import multiprocessing
import time

import pytest

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.report.costs import COSTS_NAME, add_costs, core_seconds, costs_said, describe_costs, read_costs


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "it has no stages"),
        ('{"stages": []}', "it does not give the hours of each stage"),
        ('{"stages": {"train": {"hours": "2"}}}', "it does not give the hours of each stage"),
        ('{"stages": {"train"', "cannot be read as JSON"),
    ],
)
def test_a_damaged_file_is_said_and_left_as_it_is(tmp_path, content, message):
    (tmp_path / COSTS_NAME).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_costs(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        add_costs(tmp_path, "train", seconds=1, of_cores=1, gpus=0)
    assert (tmp_path / COSTS_NAME).read_text() == content
    assert costs_said(tmp_path).startswith(f"What this run took is not known: {tmp_path}/costs.json")


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
