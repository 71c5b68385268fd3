"""One long step of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar

from vissl_clusterfit import distributed
from vissl_clusterfit.progress.display import Display
from vissl_clusterfit.progress.state import ProgressState, tell

logger = logging.getLogger(__name__)

_TELL_EVERY_S = 0.5
_THEN: ContextVar[str] = ContextVar("what comes after the present step", default="")


@contextlib.contextmanager
def followed_by(step: str) -> Iterator[None]:
    """Steps that begin in the block say that this one comes next, unless an inner block names another."""
    token = _THEN.set(step)
    try:
        yield
    finally:
        _THEN.reset(token)


class Progress:
    """A step of a run, with its rate and the time left, shown by the primary process (:class:`Display`).

        with Progress("Clustering", total=20, unit="iterations") as progress:
            for _ in range(20):
                progress.add(1)

    Args:
        step: what is done, in a word or two.
        total: how much there is to do.
        unit: of what, in the plural.
        done: how much of it was done before, and does not count in the rate.
    """

    def __init__(self, step: str, total: int, unit: str, *, done: int = 0) -> None:
        self._state = ProgressState(step, done, total, unit, then=_THEN.get())
        self._first, self._started = done, time.monotonic()
        self._told = -float("inf")
        self._display = Display(logger.info) if distributed.is_primary() else None
        self._show()

    @property
    def done(self) -> int:
        """How much is done."""
        return self._state.done

    @property
    def is_shown(self) -> bool:
        """Whether this process is the one that shows it."""
        return self._display is not None

    def add(self, count: int, note: str = "") -> None:
        """Counts what was done since the last call; ``note`` is what else is worth a few words."""
        self.set(self._state.done + count, note)

    def set(self, done: int, note: str = "") -> None:
        """Says how much is done in all."""
        state, taken = self._state, time.monotonic() - self._started
        rate = (done - self._first) / taken if taken > 0 else 0.0
        self._state = dataclasses.replace(state, done=done, rate=rate, note=note or state.note)
        self._show()

    def complete(self) -> None:
        """Says that all is done."""
        self.set(self._state.total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes it from the screen."""
        if self._display is not None:
            self._display.close()

    def _show(self) -> None:
        if self._display is None:
            return
        self._display.show(self._state)
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S or self._state.done >= self._state.total:
            self._told = now
            tell(self._state)
