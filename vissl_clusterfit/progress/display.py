"""How a step is shown: as a bar on a terminal, as a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from vissl_clusterfit.progress.state import ProgressState

_BAR = "{desc}: {percentage:3.0f} % |{bar}| "
_FIRST_LINE_S, _LINE_S, _LINE_OF_A_JOB_S = 10.0, 30.0, 60.0


class Display:
    """Shows one step after the other.

    On a terminal each is a bar, which goes when the next one begins. Elsewhere it is a line after ten seconds and then
    every half minute, or every minute in a job of SLURM, and none for a step that is done before.

    Args:
        say: takes a plain line.
        before: what stands in front of each bar.
    """

    def __init__(self, say: Callable[[str], object], before: str = "") -> None:
        self._say, self._before = say, before
        self._bar: tqdm | None = None
        self._step = ""
        self._next_line = 0.0

    def show(self, state: ProgressState) -> None:
        """Shows this moment, if it is time to."""
        if state.step != self._step:
            self.close()
            self._step, self._next_line = state.step, time.monotonic() + _FIRST_LINE_S
            if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns:
                self._bar = tqdm(
                    total=state.total,
                    desc=f"{self._before}{state.step}",
                    bar_format=_BAR,
                    dynamic_ncols=True,
                    leave=False,
                    file=sys.stderr,
                )
        if self._bar is not None:
            self._bar.total = state.total
            self._bar.bar_format = _BAR + state.amount.replace("{", "{{").replace("}", "}}")
            self._bar.update(state.done - self._bar.n)
        elif time.monotonic() >= self._next_line and state.done < state.total:
            self._next_line = time.monotonic() + (_LINE_OF_A_JOB_S if "SLURM_JOB_ID" in os.environ else _LINE_S)
            self._say(f"{self._before}{state.step}: {100 * state.done // max(1, state.total)} %, {state.amount}")

    def close(self) -> None:
        """Takes the bar from the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
