"""How a command ends: its exit codes, and what it says of an error."""

from __future__ import annotations

import re

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


class RankFailed(RuntimeError):
    """A process of the run failed; the text, with its traceback, is all that there is to say."""


def plain(error: BaseException) -> str:
    """The text of an error without the traceback that a data worker puts around it."""
    wrapped = re.fullmatch(r"Caught (\w+) in .*\n[\w.]*\1: (.*)", str(error), flags=re.DOTALL)
    return (wrapped.group(2) if wrapped else str(error)).strip()
