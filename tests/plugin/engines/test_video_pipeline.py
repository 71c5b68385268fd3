"""What holds for images holds for video: any number of processes, resuming, artefacts that are checked."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import ROOT
from tiny_store import contents
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec
from vissl_clusterfit.datasets.synthetic.moving_digits import write_moving_digits
from vissl_clusterfit.launch.compose.compose import compose

CHECK = ROOT / "tools/check_artifacts.py"
SHARD_SIZE = 8
NUM_CLIPS = 44
UNREADABLE = 13


@pytest.fixture(scope="module")
def overrides(tmp_path_factory) -> list[str]:
    """The student of the video quickstart, on few clips, one of them damaged, with an untrained teacher."""
    folder = tmp_path_factory.mktemp("quickstart")
    write_moving_digits(folder / "clips", DigitsSpec(NUM_CLIPS + 4, 4, train_drawings=1, test_drawings=1))
    sorted((folder / "clips/train").rglob("*.mp4"))[UNREADABLE].write_bytes(b"no video")
    config = ["config=clusterfit/video/quickstart/clusterfit", f"quickstart.folder={folder}"]
    model = compose([*config, "config.MODEL.HEAD.PARAMS=[]", f"config.CHECKPOINT.DIR={folder / 'composed'}"])[2].MODEL
    torch.manual_seed(0)
    state = build_model(model, AttrDict({})).get_classy_state()
    (folder / "teacher").mkdir()
    torch.save({"classy_state_dict": {"base_model": state}}, folder / "teacher/checkpoint.torch")
    return [
        *config,
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
        "config.OPTIMIZER.num_epochs=1",
        "config.CLUSTERFIT.NUM_CLUSTERS=4",
        "config.CLUSTERFIT.NUM_ITER=3",
        f"config.CLUSTERFIT.FEATURES.SHARD_SIZE={SHARD_SIZE}",
        "config.CLUSTERFIT.FEATURES.BATCH_SIZE=4",
    ]


@pytest.fixture(scope="module")
def undisturbed(overrides, run_command, tmp_path_factory) -> Path:
    """The folder of a run on one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_command(*overrides, f"config.CHECKPOINT.DIR={folder}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_video_has_one_row_and_one_label_and_a_damaged_one_none(undisturbed):
    artifacts = undisturbed / "artifacts"
    rows = np.concatenate([np.load(file) for file in sorted(artifacts.rglob("rows-*.npy"))])
    labels = np.load(artifacts / "labels/train/labels.npy")
    assert rows.shape == (NUM_CLIPS, 64)
    assert np.flatnonzero(labels == -1).tolist() == [UNREADABLE]
    assert np.load(artifacts / "features/train/unreadable.npy").tolist() == [UNREADABLE]


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(overrides, undisturbed, run_command, tmp_path):
    done = run_command(
        *overrides, f"config.CHECKPOINT.DIR={tmp_path}", "config.DISTRIBUTED.NUM_PROC_PER_NODE=2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "artifacts") == contents(undisturbed / "artifacts")


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_to_the_same_bytes(overrides, undisturbed, run_command, start_command, tmp_path):
    features = tmp_path / "artifacts/features/train"
    process = start_command(*overrides, f"config.CHECKPOINT.DIR={tmp_path}", cwd=tmp_path)
    while not [*features.glob("rows-*.json")] and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert process.returncode < 0, process.stderr.read()
    done_shards = {file.with_suffix(".npy") for file in features.glob("rows-*.json")}
    assert len(done_shards) < NUM_CLIPS // SHARD_SIZE
    before = {file.name: file.stat().st_mtime_ns for file in done_shards}
    done = run_command(*overrides, f"config.CHECKPOINT.DIR={tmp_path}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "artifacts") == contents(undisturbed / "artifacts")
    assert {name: (features / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.slow
def test_a_training_that_is_killed_resumes_from_its_last_epoch(overrides, run_command, start_command, tmp_path):
    several = [*overrides, f"config.CHECKPOINT.DIR={tmp_path}", "config.OPTIMIZER.num_epochs=6"]
    several += ["config.CHECKPOINT.AUTO_RESUME=true", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1"]
    process = start_command(*several, cwd=tmp_path)
    while not (tmp_path / "model_phase1.torch").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert process.returncode < 0, process.stderr.read()
    first = (tmp_path / "model_phase1.torch").stat().st_mtime_ns
    done = run_command(*several, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model_phase1.torch").stat().st_mtime_ns == first
    assert (tmp_path / "model_final_checkpoint_phase5.torch").is_file()


def check(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True)


def test_its_artefacts_are_checked_to_the_byte(undisturbed):
    artifacts = undisturbed / "artifacts"
    assert check(artifacts).returncode == 0
    rows = sorted(artifacts.rglob("rows-*.npy"))[1]
    whole = rows.read_bytes()
    try:
        rows.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = check(artifacts)
    finally:
        rows.write_bytes(whole)
    assert done.returncode != 0
    assert rows.name in done.stdout + done.stderr


def test_features_of_other_clips_are_refused(overrides, undisturbed, run_command, tmp_path):
    """Other frames, or more clips per video, make other features."""
    for change, told in (
        ("config.DATA.TRAIN.CLIPS.STRIDE=1", "stride"),
        ("config.CLUSTERFIT.FEATURES.NUM_CLIPS=3", "num_clips"),
    ):
        done = run_command(
            *overrides,
            "engine_name=clusterfit_label",
            f"config.CHECKPOINT.DIR={tmp_path}",
            f"config.CLUSTERFIT.OUTPUT_DIR={undisturbed / 'artifacts'}",
            change,
            cwd=tmp_path,
        )
        assert done.returncode == 2
        assert "was made from other data or settings" in done.stderr
        assert told in done.stderr.lower()


def test_the_features_say_which_clips_they_are_of(undisturbed):
    manifest = json.loads((undisturbed / "artifacts/features/train/manifest.json").read_text())
    clips = {key.lower(): value for key, value in manifest["inputs"]["clips"].items()}
    assert (clips["num_frames"], clips["stride"], clips["num_clips"]) == (8, 2, 2)
