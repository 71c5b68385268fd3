"""The workers of a launcher end with it, whatever they are in."""

import contextlib
import os
import signal
import time

from hosts import free_port
from processes import context, exit_code, running
from rendezvous_work import launch_workers_that_wait


def is_running(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_workers_that_wait_for_ranks_that_are_gone_end_with_their_launcher(tmp_path):
    """PyTorch interrupts them, and tries for half an hour to reach the store that they wait for."""
    ready = context.Event()
    with running(launch_workers_that_wait, tmp_path, free_port(), free_port(), ready) as launcher:
        assert ready.wait(120)
        workers = [int(file.name) for file in tmp_path.iterdir()]
        os.kill(launcher.pid, signal.SIGKILL)
        exit_code(launcher)
        end = time.monotonic() + 60
        while (left := [*filter(is_running, workers)]) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []
        assert len(workers) == 2
