"""Where the time of an extraction goes, and what bounds it: reading, decoding, the network or the disk."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Batch = TypeVar("Batch")

_START, _IMAGES, _NETWORK, _DISK = "start", "images", "network", "disk"
_BOUNDS = {_NETWORK: "the network", _DISK: "writing features"}


class Clock(NamedTuple):
    """Seconds of a thread: of its processor, and without one while it waited for a file or another machine."""

    busy: float
    stalled: float

    @classmethod
    def now(cls) -> Clock:
        """Since some moment; a thread that is ready and has no processor is neither busy nor stalled."""
        busy = time.thread_time()
        return cls(busy, time.perf_counter() - busy - _in_queue())

    def __sub__(self, other: Clock) -> Clock:
        return Clock(self.busy - other.busy, max(0.0, self.stalled - other.stalled))


class Spent:
    """On what a process has waited that extracts."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._reading = Clock(0.0, 0.0)
        self._total = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The time of the block is that of the extraction."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._total += time.perf_counter() - begun

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """The time of the block goes to "images", "network" or "disk"."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[what] += time.perf_counter() - begun

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each is there goes to "images", but for the first: processes start then."""
        left, what = iter(batches), _START
        while True:
            with self.on(what):
                batch = next(left, None)
            what = _IMAGES
            if batch is None:
                return
            yield batch

    def add_reading(self, seconds: Clock, num_samples: int) -> None:
        """What reading some samples took, in whatever process."""
        self.num_samples += num_samples
        self._reading = Clock(self._reading.busy + seconds.busy, self._reading.stalled + seconds.stalled)

    def share(self, what: str) -> float:
        """The share of the time that was spent on "images", "network" or "disk"."""
        return self._seconds[what] / max(self._total, 1e-9)

    @property
    def bound(self) -> str:
        """What took most of the time: reading, decoding, the network, or writing features."""
        most = max((_IMAGES, _NETWORK, _DISK), key=self.share)
        is_stalled = self._reading.stalled > self._reading.busy
        return _BOUNDS.get(most) or ("reading files" if is_stalled else "decoding")

    def __str__(self) -> str:
        """For the log."""
        rate = self.num_samples / max(self._total, 1e-9)
        shares = f"{self.share(_IMAGES):.0%} waiting for images, {self.share(_NETWORK):.0%} in the network"
        of_disk = f"{self.share(_DISK):.0%} waiting for the disk"
        per_sample = 1e3 * (self._reading.busy + self._reading.stalled) / max(self.num_samples, 1)
        return (
            f"Extracted {self.num_samples} samples, {rate:.1f} per second in this process: {shares}, {of_disk}. What "
            f"bounds it is {self.bound}; reading and decoding a sample takes {per_sample:.1f} ms."
        )


def _in_queue() -> float:
    """Seconds in which this thread was ready and had no processor, as Linux counts them; 0 elsewhere."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
