"""What a run says of its present step to a command that started it: a small file that is replaced as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_json

#: Names the file, for all processes of a run.
VARIABLE = "VISSL_CLUSTERFIT_PROGRESS"


@dataclass(frozen=True)
class ProgressState:
    """One moment of one long step.

    Attributes:
        step: What is done, for example "Extracting".
        done: How much of it.
        total: Of how much.
        unit: Of what, in the plural.
        rate: Units per second in this process's time; 0 where nothing was measured yet.
        note: What else is worth a few words, for example the loss.
        then: What comes next.
    """

    step: str
    done: int
    total: int
    unit: str
    rate: float = 0.0
    note: str = ""
    then: str = ""

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where there is none."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    @property
    def amount(self) -> str:
        """How much is done, how fast, the time left, and what comes next.

        >>> ProgressState("Extracting", 512, 2048, "samples", 64.0).amount
        '512 of 2,048 samples, 64 samples/s, 24 s left'
        """
        parts = [f"{self.done:,} of {self.total:,} {self.unit}"]
        if self.rate > 0:
            shown = f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"
            parts.append(f"{shown} {self.unit}/s")
        if self.seconds_left is not None and self.done < self.total:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join([*parts, *filter(None, [self.note, f"then {self.then}" if self.then else ""])])


def duration(seconds: float) -> str:
    """A time in the units that a reader wants.

    >>> duration(24), duration(95), duration(7500), duration(200_000)
    ('24 s', '1 min 35 s', '2 h 05 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def tell(state: ProgressState) -> None:
    """Writes the state where a watching command looks for it, if there is one. A disk that refuses it stops nothing."""
    place = os.environ.get(VARIABLE)
    if not place:
        return
    beside = f"{place}.{os.getpid()}"
    with contextlib.suppress(OSError):
        Path(beside).write_text(json.dumps(dataclasses.asdict(state)), "utf-8")
        os.replace(beside, place)


def look(place: Path) -> ProgressState | None:
    """The present state of a run that was started with ``VARIABLE`` set to ``place``; None before its first step."""
    try:
        return ProgressState(**load_json(place))
    except (OSError, UnsafeFileError, TypeError):
        return None
