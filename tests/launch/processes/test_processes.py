"""The same artefacts, byte for byte, however many processes extract and however data workers are started."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from tiny_store import contents


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_processes, start_method", [(2, "fork"), (1, "forkserver"), (1, "spawn")], ids=lambda value: str(value)
)
def test_processes_and_workers_change_nothing(
    student_run, student_overrides, start_script, tmp_path, num_processes, start_method
):
    """Data workers unpickle the paired source, so there, too, VISSL has to be repaired first."""
    folder = tmp_path / "run"
    process = start_script(
        *student_overrides,
        f"config.CHECKPOINT.DIR={folder}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        f"config.MULTI_PROCESSING_METHOD={start_method}",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
        cwd=tmp_path,
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert contents(folder / "clusterfit") == contents(student_run / "clusterfit")
    assert (folder / "model_final_checkpoint_phase0.torch").is_file()


def readers(session: int) -> set[int]:
    """The data workers of PyTorch in a session, by their numbers."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # it has just ended
        state, _, _, its_session = rest.split()[:4]
        if name.startswith("pt_data_worker") and int(its_session) == session and state != "Z":
            found.add(int(folder.name))
    return found


def wait_until(condition, limit_s):
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    assert condition()


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_a_training_that_is_killed_leaves_no_process_behind(
    student_run, student_overrides, start_command, tmp_path, start_method
):
    """A fork server, VISSL's default, is alive as long as its children are, and those as long as it is."""
    process = start_command(
        *student_overrides,
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        f"config.CLUSTERFIT.OUTPUT_DIR={student_run / 'clusterfit'}",
        f"config.MULTI_PROCESSING_METHOD={start_method}",
        "config.DATA.NUM_DATALOADER_WORKERS=2",
        "config.OPTIMIZER.num_epochs=1000",
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: len(readers(process.pid)) == 2 or process.poll() is not None, 120)
        assert process.poll() is None, process.stderr.read()
        process.kill()
        process.wait()
        wait_until(lambda: not readers(process.pid), 10)
    finally:
        for number in (process.pid, *readers(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
