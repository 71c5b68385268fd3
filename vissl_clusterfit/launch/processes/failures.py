"""What ended a run: the root cause among the failures of all its processes, reported once, with its place.

When one process of a run fails, the others fail after it, with what they noticed: a connection that was closed. So a
failure has a kind, and the first one that is not such a secondary failure is the root cause.
"""

from __future__ import annotations

import json
import re
import signal
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vissl_clusterfit.errors import ClusterFitError, mendable
from vissl_clusterfit.plugin.log_bridge import without_secrets

#: Exit codes of the command.
DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
#: A user's mistake; any other exception; a process that a signal ended; Ctrl-C.
USER_MISTAKE, ERROR, KILLED, INTERRUPT = "mistake", "error", "killed", "interrupt"
#: A node that sends no heartbeat, and what others notice of one that failed. In this order the better causes.
LOST, SECONDARY = "lost", "echo"

# What gloo, NCCL and the store say when the other end has gone.
_GONE = re.compile(
    r"gloo/transport|Connection (closed|reset|refused)|Broken pipe|remote process exited|ncclRemoteError|TCPStore"
    r"|Failed to recv|connection was closed",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """One failure and where it was.

    Attributes:
        kind: One of the constants of this module.
        text: A user's message, a traceback, or a sentence.
        node, host: Where; ``host`` is the machine's name.
        rank: Of the process, among all of the run; None for what starts the processes of a node.
        nodes: How many the run has.
    """

    kind: str
    text: str
    node: int
    host: str
    rank: int | None
    nodes: int

    @property
    def place(self) -> str:
        """The process in words."""
        node = f"node {self.node}, {self.host}"
        if self.rank is None:
            return node
        return f"rank {self.rank} ({node})" if self.nodes > 1 else f"rank {self.rank}"

    def exception(self) -> BaseException:
        """What the command ends with, so that this is the last thing on the screen."""
        if self.kind == USER_MISTAKE:
            return ClusterFitError(f"{self.text} (This was found by {self.place}.)" if self.nodes > 1 else self.text)
        place = self.place[0].upper() + self.place[1:]
        return RankFailed(f"{place} failed:\n{self.text}" if "\n" in self.text else f"{place}: {self.text}")

    def to_json(self) -> str:
        """The failure as text, for files and stores."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Failure:
        """The failure of a text that ``to_json`` made."""
        return cls(**json.loads(text))


def of_exception(error: BaseException, **place: Any) -> Failure:
    """The failure that an exception is; ``place`` are ``node``, ``host``, ``rank`` and ``nodes``."""
    if isinstance(error, KeyboardInterrupt):
        return Failure(INTERRUPT, "ended by Ctrl-C.", **place)
    if mistake := mendable(error):
        return Failure(USER_MISTAKE, strip_worker_traceback(mistake), **place)
    text = without_secrets("".join(traceback.format_exception(error))).rstrip()
    return Failure(SECONDARY if _is_secondary(error) else ERROR, text, **place)


def _is_secondary(error: BaseException) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and bool(_GONE.search(str(error))))


def of_exit_code(code: int, **place: Any) -> Failure:
    """The failure of a process that left no message: its exit code, negative for a signal."""
    if code >= 0:
        return Failure(ERROR, f"it ended with exit code {code}, without a message.", **place)
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    # NCCL's guard aborts a process whose peer has gone.
    kind = SECONDARY if -code == signal.SIGABRT else KILLED
    hint = " Is its memory enough? The log of the system says what killed it." if -code == signal.SIGKILL else ""
    return Failure(kind, f"it was ended by {name}.{hint}", **place)


def root_cause(failures: Sequence[Failure]) -> Failure:
    """The first failure that is not secondary; ``failures`` are in the order in which they happened."""
    order = {LOST: 1, SECONDARY: 2}
    return min(failures, key=lambda failure: order.get(failure.kind, 0))


class RankFailed(RuntimeError):
    """A process of the run failed; the text, with its traceback, is all that there is to say."""


def strip_worker_traceback(error: BaseException) -> str:
    """The text of an error, without secrets and the traceback that a data worker puts around it."""
    wrapped = re.fullmatch(r"Caught (\w+) in .*\n[\w.]*\1: (.*)", str(error), flags=re.DOTALL)
    return without_secrets((wrapped.group(2) if wrapped else str(error)).strip())
