"""The main module of a run that another run of the command started: it ends with the one that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading

from vissl_clusterfit.launch.main import main


def main_of_run() -> int:
    """What the process of a run does; it is interrupted when the one that started it dies, as nobody can any more."""

    def interrupt_when_alone() -> None:
        os.read(sys.stdin.fileno(), 1)  # there is nothing to read but the end; no lock is held meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_alone, daemon=True).start()
    return main()
