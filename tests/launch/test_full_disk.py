"""A training whose disk is full: one message, whoever writes, and it resumes once there is room."""

import os
import subprocess
import sys

import disk_work
import pytest
from disk_work import SmallDisk
from repository import ROOT

pytestmark = pytest.mark.slow


def on_small_disk(folder, num_pages):
    """What the child does before it becomes the command: a disk of its own, with a few free pages."""

    def mount() -> None:
        SmallDisk(folder, 4000).leave(num_pages)

    return mount


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("num_pages", [3, 30], ids=["log", "checkpoint"])
def test_a_training_on_a_full_disk_ends_with_one_message(
    tmp_path, student_overrides, student_run, num_pages, num_processes
):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [
        sys.executable,
        ROOT / "tools/run_distributed_engines.py",
        *student_overrides,
        f"config.CLUSTERFIT.OUTPUT_DIR={student_run / 'clusterfit'}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        f"config.CHECKPOINT.DIR={disk / 'run'}",
    ]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=on_small_disk(disk, num_pages),
    )
    if ended.returncode == disk_work.CANNOT_MOUNT:
        pytest.skip("nothing can be mounted here")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    assert said.count("error: ") == 1
    assert "cannot be written: No space left on device. " in ended.stderr
    assert "make room or name another" in ended.stderr
    assert "Traceback" not in ended.stderr  # Classy Vision puts one into the log
    assert said.count("warning: the log cannot be written") <= num_processes
