"""A disk that refuses: one message, nothing half-written, what is done is kept, and it resumes once there is room."""

import json

import disk_work
import numpy as np
import pytest
import stage_work
from processes import outcome
from tiny_store import contents, save_codebook, save_store

from vissl_clusterfit.storage.atomic import write_file

STAGES = ["extract", "cluster", "label"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A feature store and a codebook."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = np.random.default_rng(5).standard_normal((1500, 8)).astype(np.float32)
    return (
        save_store(folder / "features", rows, [3], shard_size=700).folder,
        save_codebook(folder / "codebook", rows[::100]).folder,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, inputs):
    """What each stage gives on a disk that has room."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for stage in STAGES:
        assert outcome(disk_work.do, stage, folder / stage, *inputs) == 0
    return {stage: contents(folder / stage) for stage in STAGES}


def on_disk(work, stage, tmp_path, inputs):
    """What happened on a disk of the process's own."""
    (tmp_path / "disk").mkdir()
    code = outcome(work, stage, tmp_path / "disk", *inputs, tmp_path / "answer")
    if code == disk_work.CANNOT_MOUNT:
        pytest.skip("nothing can be mounted here")
    assert code == 0
    return json.loads((tmp_path / "answer").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_stops_a_stage_with_a_message_and_no_more(stage, tmp_path, inputs, undisturbed):
    *stopped, went_through = on_disk(disk_work.on_full_disk, stage, tmp_path, inputs)
    assert len(stopped) > 5  # at one file after the other
    for one in stopped:
        assert "cannot be written: No space left on device. What is done is kept: make room" in one["message"]
        assert one["left"] == []
        assert one["contents"] == undisturbed[stage]
    assert went_through["contents"] == undisturbed[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_is_read_only_is_named(stage, tmp_path, inputs, undisturbed):
    (happened,) = on_disk(disk_work.on_read_only_disk, stage, tmp_path, inputs)
    assert "cannot be written: Read-only file system." in happened["message"]
    assert happened["contents"] == undisturbed[stage]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("max_bytes", [0, 150, 400, 1000, 5000])
def test_a_file_that_may_not_grow_stops_a_stage_with_a_message(stage, max_bytes, tmp_path, inputs, undisturbed):
    folder, said = tmp_path / "made", tmp_path / "said"
    code = outcome(stage_work.told, disk_work.do_with_limit, said, max_bytes, stage, folder, *inputs)
    assert code in (0, stage_work.REFUSED)
    if code:
        assert "cannot be written: File too large" in said.read_text()
        assert not list(folder.rglob(".*"))
    else:
        assert 0 < max(path.stat().st_size for path in folder.rglob("*")) <= max_bytes
    assert outcome(disk_work.do, stage, folder, *inputs) == 0
    assert contents(folder) == undisturbed[stage]


def test_an_error_of_the_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.npy"
    write_file(path, lambda file: file.write(b"old"))
    assert outcome(stage_work.told, disk_work.write_much, tmp_path / "said", path) == stage_work.REFUSED
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.npy", "said"]
