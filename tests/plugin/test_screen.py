"""What a run shows on a terminal, and what it leaves to its log."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from repository import ROOT

from vissl_clusterfit.plugin.log_bridge import VERBOSE


def on_a_terminal(command, **environment):
    """Runs a command whose three streams are a terminal, and gives its exit code and what it showed."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name != VERBOSE}
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env={**inherited, **environment})
    os.close(child)
    shown = b""
    try:
        while part := os.read(parent, 65536):
            shown += part
    except OSError:  # Linux says by it that the other end is closed
        pass
    os.close(parent)
    return process.wait(), shown.decode("utf-8", "replace").replace("\r\n", "\n")


@pytest.mark.parametrize("flags", [[], ["-v"]])
def test_the_screen_has_our_lines_and_the_log_has_all(tmp_path, student_overrides, flags):
    tool = str(ROOT / "tools/run_distributed_engines.py")
    overrides = [*student_overrides, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"]
    code, shown = on_a_terminal([sys.executable, tool, *flags, *overrides], OMP_NUM_THREADS="1")
    assert code == 0, shown
    log = (tmp_path / "run/log.txt").read_text()
    of_vissl = ("'ACTIVATION_CHECKPOINTING'", "Starting phase 0 [train]", "iter: 0; lr:")
    of_ours = ("samples are labelled", "Training on ")
    assert all(words in log for words in (*of_vissl, *of_ours))
    assert all(words in shown for words in of_ours)
    assert all((words in shown) == bool(flags) for words in of_vissl)
    assert re.search(r"Extracting: +\d+ % \|", shown), shown
    assert "Selecting a CPU device" not in shown or flags
    assert flags or 5 * len(shown.splitlines()) < len(log.splitlines()), shown
    # No line of the log is written into a bar.
    assert not re.search(r"it[/ems]+.*\d\d:\d\d:\d\d  \w", shown.replace("\r", "\n")), shown
