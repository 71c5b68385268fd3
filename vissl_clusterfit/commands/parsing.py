"""What the sub-commands share: what a mistake in an argument gets, numbers of people, progress on the terminal."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from tqdm import tqdm

from vissl_clusterfit.progress.ending import ending

DONE, USER_ERROR, INTERRUPTED = 0, 2, 130


class Parser(argparse.ArgumentParser):
    """Arguments of a command; a mistake in them is one message, with exit code 2."""

    def __init__(self, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(**options, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Says the mistake, and where to read on."""
        self.exit(USER_ERROR, f"error: {message.rstrip('.')}. See: {self.prog} --help\n")


def count(text: str) -> int:
    """A whole number, also as 1e9."""
    number = _number(text)
    if not (math.isfinite(number) and number == int(number) and abs(number) <= 2**53):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number, such as 1000000 or 1e6.")
    return int(number)


def count_or_auto(text: str) -> int | str:
    """A whole number, or the word auto."""
    return text if text == "auto" else count(text)


def share(text: str) -> float:
    """A number of 0 or more."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number, 0 or more")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def say_end(done: str, places: Mapping[str, object] | None = None, *, then: Sequence[object]) -> None:
    """Says what came out and where, and what to type next; that goes to the stream of errors, as it is no result."""
    *made, following = ending(done, places, then=then).splitlines()
    print("\n".join(made), flush=True)
    print(following, file=sys.stderr)


class _Lines(logging.StreamHandler):
    """Lines above the bar, where there is one; then without those that say the same as the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "is_detail", False) and self.stream.isatty():
            return
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


@contextmanager
def progress_shown() -> Iterator[None]:
    """Shows what this package logs, on the stream of errors, so that output can go on to other programs."""
    handler = _Lines(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("vissl_clusterfit")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
