"""Checkpoints on a disk that is full, or beside those of others: nothing half-written is left, nothing is lost."""

import json
import subprocess
import sys

import disk_work
import pytest
from classy_vision.generic.util import save_checkpoint
from processes import outcome


def test_a_full_disk_stops_a_save_with_a_message_and_keeps_what_is_there(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    code = outcome(disk_work.save_checkpoint_on_full_disk, folder, tmp_path / "answer")
    if code == disk_work.CANNOT_MOUNT:
        pytest.skip("nothing can be mounted here")
    assert code == 0
    said, there, is_kept, total = json.loads((tmp_path / "answer").read_text())
    assert said.startswith(f"{folder}/model_phase1.torch cannot be written: ")
    assert "The checkpoints before it are kept: make room" in said
    assert "Traceback" not in said
    assert there == ["filler", "model_phase0.torch"]
    assert is_kept
    assert total == 100_000


def test_what_others_are_writing_stays(tmp_path):
    """The name says who writes; what the dead left goes."""
    mine = tmp_path / "mine"
    script = (
        "import sys; from pathlib import Path; from vissl_clusterfit.storage.atomic import temporary_path;"
        "p = temporary_path(Path(sys.argv[1]) / 'saving'); p.touch(); print(p.name, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(mine)]
    mine.mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as living, subprocess.Popen(command, **pipes) as dying:
        names = [process.stdout.readline().strip() for process in (living, dying)]
        dying.kill()
        dying.wait()
        save_checkpoint(str(mine), {"phase_idx": 0}, checkpoint_file="model_phase0.torch")
        assert {file.name for file in mine.iterdir()} == {"model_phase0.torch", names[0]}
        living.stdin.close()
