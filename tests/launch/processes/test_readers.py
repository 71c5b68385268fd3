"""Processes that read images and cannot hand them over: one message with the remedy, and never a run that waits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import STUDENT, write_images

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, str(REPOSITORY / "tools/run_distributed_engines.py"))
LARGE = "[{name:Resize,size:[224,224]},{name:ToTensor}]"
MESSAGE = "config.DATA.NUM_DATALOADER_WORKERS: found a batch of images that cannot be passed on: "


def _can_mount() -> bool:
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    with open(os.devnull, "w") as nowhere:
        try:
            return subprocess.run(mount, stdout=nowhere, stderr=nowhere, check=False).returncode == 0
        except OSError:
            return False


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("many"), 160)


@pytest.fixture
def command(many, teacher, tmp_path):
    """The command of each kind of run, which reads large images with two processes."""
    student = [
        *STUDENT,
        f"config.DATA.TRAIN.DATA_PATHS=[{many}]",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        "config.DATA.NUM_DATALOADER_WORKERS=2",
    ]
    return {
        "extraction": [
            *student,
            "engine_name=clusterfit_extract",
            f"config.CLUSTERFIT.FEATURES.TRANSFORMS={LARGE}",
            "config.CLUSTERFIT.FEATURES.BATCH_SIZE=64",
            "config.CLUSTERFIT.FEATURES.SHARD_SIZE=64",
            "config.MULTI_PROCESSING_METHOD=forkserver",
        ],
        "training": [
            *student,
            f"config.DATA.TRAIN.TRANSFORMS={LARGE}",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=64",
        ],
        "transfer": [
            "config=clusterfit/transfer",
            "config.MACHINE.DEVICE=cpu",
            "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
            f"config.DATA.TRAIN.DATA_PATHS=[{many}]",
            f"config.DATA.TEST.DATA_PATHS=[{many}]",
            "config.DATA.NUM_DATALOADER_WORKERS=2",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        ],
    }


@pytest.mark.skipif(not _can_mount(), reason="needs the right to mount a small /dev/shm in a namespace of its own")
@pytest.mark.parametrize("kind", ["extraction", "training", "transfer"])
def test_too_little_shared_memory(command, tmp_path, kind):
    small = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", small, "sh", *COMMAND, *command[kind]],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    last = result.stderr[result.stderr.rindex("error: ") :]
    assert last.startswith(f"error: {MESSAGE}")
    assert "of 8 MiB free)" in last
    assert "Set config.DATA.NUM_DATALOADER_WORKERS=0" in last
    assert "--shm-size=8g" in last
    assert "Traceback" not in last


@pytest.mark.slow
def test_files_that_may_not_grow(command, tmp_path):
    # The teacher and logs are smaller, a batch is larger.
    limited = ["sh", "-c", 'ulimit -f 20000; exec "$@"', "sh", *COMMAND, *command["extraction"]]
    result = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2, result.stderr
    assert MESSAGE in result.stderr
    assert "ulimit -f unlimited" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extraction", "training"])
def test_a_process_that_reads_and_is_killed(command, start_command, tmp_path, kind):
    process = start_command(*command[kind], cwd=tmp_path)
    reader = None
    end = time.monotonic() + 200
    while reader is None and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
        reader = _reader(process.pid)
    os.kill(reader, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "found a process that reads images, number " in errors
    assert "Set config.DATA.NUM_DATALOADER_WORKERS=0" in errors


def _reader(group: int) -> int | None:
    """A process of the group that has read an image: it has a thread of a queue, or waits for work."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "task" / folder.name / "comm").read_text().strip()
            if os.getpgid(int(folder.name)) == group and name.startswith("pt_data"):
                return int(folder.name)
        except OSError:
            continue
    return None
