"""The end of a run, in five lines at most: what came out and where, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

PROGRAM = "vissl-clusterfit"
_MOST_LINES = 5


def next_command(words: Sequence[object]) -> str:
    """A command of ours as it is typed."""
    return f"{PROGRAM} {shlex.join(map(str, words))}"


def ending(
    done: str, places: Mapping[str, object] | None = None, notes: Sequence[str] = (), *, then: Sequence[object] = ()
) -> str:
    """What a run says when it has ended.

    Args:
        done: what came out, in a line.
        places: where, by what is there; those for which there is no line share the last one.
        notes: a line each.
        then: the words of the command to go on with, after its name; none where the run ends the way.

    >>> print(ending("Done.", {"codebook": "run/codebook"}, then=["label", "features", "codebook", "my labels"]))
    Done.
      codebook: run/codebook
    next: vissl-clusterfit label features codebook 'my labels'
    """
    notes = [note for note in notes if note]
    last = [f"next: {next_command(then)}"] if then else []
    lines = [f"{name}: {place}" for name, place in (places or {}).items()]
    room = max(1, _MOST_LINES - 1 - len(notes) - len(last))
    shown = [*lines[: room - 1], "; ".join(lines[room - 1 :])] if len(lines) > room else lines
    return "\n".join([done, *(f"  {line}" for line in shown), *notes, *last])
