"""What a command shows of a run that it started in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vissl_clusterfit.progress.display import Display
from vissl_clusterfit.progress.state import ProgressState, look

_LOOK_EVERY_S = 0.25


def watch(
    code_within: Callable[[float], int | None], place: Path, say: Callable[[str], object], before: str = ""
) -> int:
    """Shows the steps of a run until it ends, and gives its exit code.

    Args:
        code_within: waits for the run for at most so many seconds; its exit code, or None where it still runs. It was
            started with ``progress.state.VARIABLE`` set to ``place``.
        place: of the file that it writes; removed at the end.
        say: takes a plain line where there is no terminal.
        before: what stands in front of each.
    """
    display, shown = Display(say, before), None
    try:
        while (code := code_within(_LOOK_EVERY_S)) is None:
            state: ProgressState | None = look(place)
            if state is not None and state != shown:
                display.show(state)
                shown = state
        return code
    finally:
        display.close()
        place.unlink(missing_ok=True)
