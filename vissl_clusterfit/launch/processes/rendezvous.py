"""The rendezvous of a run: its participants agree on what is decided once, watch one another, and report failures.

Participants are the nodes' launchers, or under ``torchrun``, which has no launcher of ours, the processes themselves.
Participant 0 decides what must be decided once. All goes through a store of ``torch.distributed``; the processes of
the run use the same one to find each other.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch.distributed as dist

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.processes import failures
from vissl_clusterfit.launch.processes.failures import Failure
from vissl_clusterfit.launch.processes.heartbeat import (
    Heartbeat,
    Participant,
    limit_s,
    report_failure,
    reported_failures,
)
from vissl_clusterfit.launch.processes.network import wait_for

# People start nodes by hand, one after the other.
_ARRIVAL = 5
_POLL_S = 0.1
# For the cause to become known after its secondary failures, and for others to have read what there is.
_GRACE_S = 10.0


class Failed(Exception):
    """A participant, or one of its processes, has failed; ``reported`` if all know that."""

    def __init__(self, failure: Failure, *, reported: bool = False) -> None:
        super().__init__(failure.text)
        self.failure, self.reported = failure, reported


class Rendezvous:
    """One participant's view. Use it in a ``with`` block; leaving it waits for the others.

    Args:
        participant: This one.
        host, port: Where the store is; with port 0, participant 0 takes a free one.
        has_store: Whether this participant has the store.
    """

    def __init__(self, participant: Participant, host: str, port: int, *, has_store: bool) -> None:
        self.participant, self.host, self.port = participant, host, port
        self._limit_s = limit_s()
        self._arrival_s = _ARRIVAL * self._limit_s
        self._server = _serve(host, port) if has_store else None
        if self._server:
            self.port = self._server.port
        else:
            wait_for(host, port, self._arrival_s, self._say_waiting)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._prefix = f"vissl_clusterfit/{attempt}"
        self._store = self._connect()
        self._heartbeat = Heartbeat(self._connect(), participant, host, self._limit_s)

    def _say_waiting(self) -> None:
        if self.participant.rank is None:
            node = f"Node {self.participant.node} of {self.participant.nodes}"
            text = f"{node} waits for the others at {self.host}:{self.port}."
            print(text, flush=True)  # noqa: T201  (VISSL sets up its log later, in the processes)

    def _connect(self) -> dist.Store:
        timeout = datetime.timedelta(seconds=self._limit_s)
        store = dist.TCPStore(self.host, self.port, None, False, timeout, wait_for_workers=False)
        return dist.PrefixStore(self._prefix, store)

    def __enter__(self) -> Rendezvous:
        number, mine = self.participant.number, f"{socket.gethostname()}, process {os.getpid()}\n{uuid.uuid4()}"
        there = self._store.compare_set(f"here/{number}", "", mine).decode()
        if there != mine:
            raise ConfigError(
                problem(
                    "node_id",
                    found=f"{self.participant.node} here, and {there.splitlines()[0]} has it already",
                    allowed=f"another one of 0 to {self.participant.nodes - 1} on each node",
                )
            )
        self._wait_until_all("here", self._arrival_s)
        self._heartbeat.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._heartbeat.stop()

    def _wait_until_all(self, what: str, time_s: float | None = None) -> None:
        begin, said = time.monotonic(), False
        missing = list(range(self.participant.count))
        while missing := [number for number in missing if not self._store.check([f"{what}/{number}"])]:
            passed = time.monotonic() - begin
            if time_s is not None and passed > time_s:
                names = ", ".join(map(str, missing))
                raise ConfigError(
                    problem(
                        "config.DISTRIBUTED.NUM_NODES",
                        found=f"{self.participant.count}, and of these {names} did not come within {time_s:.0f} s",
                        allowed="as many as are started, with a node_id each from 0 on",
                    )
                )
            if not said and passed > 5 and time_s is not None:
                self._say_waiting()
                said = True
            self.check()
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raises :class:`Failed` if a participant has failed or is lost."""
        if failure := self._heartbeat.failure:
            raise Failed(failure, reported=True)

    def barrier(self, what: str) -> None:
        """Returns when all participants have called this with the same name."""
        self._store.set(f"{what}/{self.participant.number}", "")
        self._wait_until_all(what)

    def broadcast_from_first(self, name: str, decide: Callable[[], Any]) -> Any:
        """What ``decide`` gives on participant 0, which JSON must be able to hold, on all."""
        if self.participant.number == 0:
            value = decide()
            self._store.set(name, json.dumps(value))
            return value
        while not self._store.check([name]):
            self.check()
            time.sleep(_POLL_S)
        return json.loads(self._store.get(name))

    @contextlib.contextmanager
    def on_failure(self, end: Callable[[Failure], None]) -> Iterator[None]:
        """Calls ``end`` from another thread if another participant fails and the block does not end soon after."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(1.0):
                if (failure := self._heartbeat.failure) and not over.wait(2 * _GRACE_S):
                    end(failure)

        thread = threading.Thread(target=look, name="on_failure", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def finish(self) -> None:
        """Waits until all have finished; so none says that the run is done before it is."""
        self.barrier("ended")
        self._leave()

    def fail(self, failure: Failure, *, reported: bool = False) -> Failure:
        """Reports a failure, unless all know it, and returns the root cause as far as it becomes known."""
        found = [failure]
        with contextlib.suppress(RuntimeError):
            if not reported:
                report_failure(self._store, failure)
            end = time.monotonic() + _GRACE_S
            while time.monotonic() < end:
                found = reported_failures(self._store) or found
                if (
                    failures.root_cause(found).kind not in (failures.LOST, failures.SECONDARY)
                    or self.participant.count == 1
                ):
                    break
                time.sleep(_POLL_S)
            else:
                if failures.root_cause(found).kind == failures.SECONDARY:
                    found += self._silent()
            self._leave()
        if self._heartbeat.failure:
            found.append(self._heartbeat.failure)
        return failures.root_cause(found)

    def _silent(self) -> list[Failure]:
        """The losses of those that have sent no heartbeat since the failure."""
        before = self._heartbeat.beats(self._store)
        time.sleep(2 * self._heartbeat.period_s + 1)
        after = self._heartbeat.beats(self._store)
        return [self._heartbeat.lost(number) for number in before if before[number] == after[number]]

    def _leave(self) -> None:
        """The store ends with the participant that has it, so that one goes last."""
        self._store.set(f"left/{self.participant.number}", "")
        end = time.monotonic() + _GRACE_S
        while self._server and time.monotonic() < end:
            if self._store.check([f"left/{number}" for number in range(self.participant.count)]):
                break
            time.sleep(_POLL_S)


def _serve(host: str, port: int) -> dist.TCPStore:
    try:
        return dist.TCPStore(host, port, None, True, wait_for_workers=False, multi_tenant=True)
    except dist.DistError as error:
        raise ConfigError(
            problem(
                "config.DISTRIBUTED.RUN_ID",
                found=f"{host}:{port}, which this node, number 0, cannot open ({str(error).splitlines()[0]})",
                allowed="an address of node 0, with a port that is free there",
                remedy="Other nodes need node_id=1 and so on; two runs on one machine need two ports.",
            )
        ) from None
