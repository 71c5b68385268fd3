"""What of a run's log comes to the screen: our lines and warnings. ``log.txt`` in CHECKPOINT.DIR has all of it.

VISSL prints its environment, its config, the whole network and a line for each log step. With ``-v`` they come to the
screen, too.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from typing import Any

from tqdm import tqdm

from vissl_clusterfit.plugin.log_bridge import VERBOSE

_PACKAGE = "vissl_clusterfit."
#: What VISSL warns of and the config has asked for.
_AS_ASKED = {"Selecting a CPU device", "CUDA unavailable: CUDA events are not logged."}


class _Screen(logging.StreamHandler):
    """Lines for people: the time of day, and what happened. A bar that is on the screen stays below them."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        self.addFilter(_is_for_people)

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the level where it is more than news."""
        line = super().format(record)
        if record.levelno < logging.WARNING:
            return line
        time_of_day, _, rest = line.partition("  ")
        return f"{time_of_day}  {record.levelname.lower()}: {rest}"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the line above the bar, if there is one."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _is_for_people(record: logging.LogRecord) -> bool:
    if record.name.startswith(_PACKAGE):
        return not getattr(record, "is_detail", False)
    return record.levelno >= logging.WARNING and record.getMessage() not in _AS_ASKED


def show_lines() -> None:
    """Has the log of this process come to the screen as that of a run: of one for which VISSL sets up none."""
    logging.root.handlers = [_Screen()]


def keep_screen_calm() -> None:
    """Has VISSL's log come to ``log.txt`` alone, but for what people read; called once in every process."""
    set_up = importlib.import_module("vissl.utils.logger").setup_logging

    @functools.wraps(set_up)
    def setup_logging(*args: Any, **kwargs: Any) -> None:
        set_up(*args, **kwargs)
        handlers = logging.root.handlers
        in_file = [handler for handler in handlers if getattr(handler, "stream", None) is not sys.stdout]
        is_first = int(os.environ.get("RANK", "0")) == 0
        if os.environ.get(VERBOSE) or (is_first and not in_file):
            return
        logging.root.handlers = [*in_file, _Screen()]

    for module in ("utils.logger", "engines.train", "engines.extract_features", "engines.extract_cluster"):
        importlib.import_module(f"vissl.{module}").setup_logging = setup_logging
