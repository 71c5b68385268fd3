"""A run whose process is started before its turn, and imports meanwhile what takes seconds."""

from __future__ import annotations

import importlib
import sys

from vissl_clusterfit.launch.main import main
from vissl_clusterfit.launch.processes.failures import DONE, INTERRUPTED
from vissl_clusterfit.launch.runs.process_pool import IMPORTS_AHEAD


def main_when_told() -> int:
    """Waits for a line on standard input, then does what the command does; ends where there will be none."""
    try:
        _import()
        if not sys.stdin.readline():
            return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    return main()


def _import() -> None:
    # What of it fails is said by the run itself.
    try:
        importlib.import_module("vissl_clusterfit.plugin.bootstrap")
        importlib.import_module(IMPORTS_AHEAD)
    except Exception:
        return
