"""Checkpoints on a disk that is full: one message, those before are kept, nothing half-written is left."""

import json

import disk_work
import pytest
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
