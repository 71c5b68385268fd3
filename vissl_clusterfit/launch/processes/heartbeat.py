"""Heartbeats of the participants of a rendezvous, and their failures, in the store that they share."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.processes import failures
from vissl_clusterfit.launch.processes.failures import Failure

#: An environment variable: after how many seconds without a heartbeat a node counts as lost.
LIMIT_VARIABLE = "VISSL_CLUSTERFIT_NODE_TIMEOUT"
_DEFAULT_LIMIT_S = 120.0


def limit_s() -> float:
    """After how many seconds without a heartbeat a node counts as lost.

    Raises:
        ConfigError: the variable holds no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    with contextlib.suppress(ValueError):
        value = float(text or _DEFAULT_LIMIT_S)
        if value > 0:
            return value
    raise ConfigError(problem(LIMIT_VARIABLE, found=repr(text), allowed="a number of seconds above 0"))


@dataclass(frozen=True)
class Participant:
    """One participant: its number among ``count``, its node among ``nodes``, its rank if it is a process of the run."""

    number: int
    count: int
    node: int
    nodes: int
    rank: int | None = None

    @property
    def local_rank(self) -> int:
        """The number of a process on its node."""
        return self.number % (self.count // self.nodes)

    def place(self, rank: int | None = None) -> dict[str, Any]:
        """What :class:`Failure` says of a place on this node."""
        rank = self.rank if rank is None else rank
        return {"node": self.node, "host": socket.gethostname(), "rank": rank, "nodes": self.nodes}


def report_failure(store: dist.Store, failure: Failure) -> None:
    """Reports a failure to all participants."""
    store.set(f"failure/{store.add('failures', 1)}", failure.to_json())


def reported_failures(store: dist.Store) -> list[Failure]:
    """All reported failures, in that order."""
    return [Failure.from_json(store.get(f"failure/{number + 1}")) for number in range(store.add("failures", 0))]


class Heartbeat:
    """Sends heartbeats, and watches those of the others, in a thread beside the work of this process."""

    def __init__(self, store: dist.Store, participant: Participant, host: str, limit: float) -> None:
        self._store, self._participant, self._host, self._limit_s = store, participant, host, limit
        self.period_s = min(2.0, limit / 5)
        self._stopped = threading.Event()
        self._seen: Failure | None = None
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begins, where there are others."""
        self._last = time.monotonic()
        if self._participant.count > 1:
            self._thread.start()

    def stop(self) -> None:
        """Ends; from now on silence is no failure."""
        self._stopped.set()

    @property
    def failure(self) -> Failure | None:
        """The first that was reported, or the loss of participant 0, which has the store."""
        if self._seen is None and self._thread.is_alive() and time.monotonic() - self._last > self._limit_s:
            self._seen = self.lost(0)
        return self._seen

    def lost(self, number: int) -> Failure:
        """The failure of a participant that has gone silent."""
        node = number * self._participant.nodes // self._participant.count
        host = self._host
        if number:  # without participant 0 there is no store to ask
            host = self._store.get(f"host/{number}").decode()
        text = f"it is lost: no heartbeat for {self._limit_s:.0f} s, or its connection was closed."
        rank = None if self._participant.rank is None else number
        return Failure(failures.LOST, text, node, host, rank, self._participant.nodes)

    def beats(self, store: dist.Store) -> dict[int, bytes]:
        """The last heartbeat of each other participant that has not ended."""
        others = (number for number in range(self._participant.count) if number != self._participant.number)
        return {
            number: store.get(f"alive/{number}") if store.check([f"alive/{number}"]) else b""
            for number in others
            if not store.check([f"left/{number}"])
        }

    def _run(self) -> None:
        beats: dict[int, tuple[bytes, float]] = {}
        count = 0
        try:
            self._store.set(f"host/{self._participant.number}", socket.gethostname())
            while not self._stopped.is_set():
                count += 1
                self._store.set(f"alive/{self._participant.number}", str(count))
                if self._participant.number == 0:
                    self._look_after_others(beats)
                if found := reported_failures(self._store):
                    self._seen = failures.root_cause(found)
                    return
                self._last = time.monotonic()
                self._stopped.wait(self.period_s)
        except RuntimeError:
            if not self._stopped.is_set():
                self._seen = self.lost(0)

    def _look_after_others(self, beats: dict[int, tuple[bytes, float]]) -> None:
        now = time.monotonic()
        current = self.beats(self._store)
        for number, beat in current.items():
            if number not in beats or beats[number][0] != beat:
                beats[number] = beat, now
            elif now - beats[number][1] > self._limit_s:
                report_failure(self._store, self.lost(number))
