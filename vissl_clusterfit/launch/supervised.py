"""The main module of a run that another run of the command started: it ends with the one that started it."""

from __future__ import annotations

import os
import sys

from vissl_clusterfit.launch.main import main
from vissl_clusterfit.launch.runs.subprocess_runs import interrupt_after


def main_of_run() -> int:
    """What the process of a run does; it is interrupted when the one that started it dies, as its Ctrl-C is lost."""
    interrupt_after(lambda: os.read(sys.stdin.fileno(), 1))  # there is nothing to read but the end; it takes no lock
    return main()
