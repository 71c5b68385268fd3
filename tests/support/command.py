"""The command in a process of its own for every run, each forked from one that has imported VISSL already.

A fresh interpreter spends seconds on imports, and these tests start the command often. What a run does, prints and
returns is what ``tools/run_distributed_engines.py`` does, prints and returns, as that only calls ``main``. What a run
would start as another interpreter by multiprocessing is forked, too: ranks, fork servers, data workers. Tests of what
an interpreter has to import start the script instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

from repository import ROOT
from tiny import STUDENT

#: Of a message: the overrides and the whole environment.
_LONGEST = 1 << 17


class Command:
    """A command that has been started: what tests use of ``subprocess.Popen``."""

    def __init__(self, server: CommandServer, pid: int, stdout: IO[str], stderr: IO[str]) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._server = server
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; its exit code, negative where a signal ended it."""
        if self.returncode is None:
            if not wait([self._end], timeout):
                raise subprocess.TimeoutExpired(f"the command {self.pid}", timeout)
            os.close(self._end)
            self.returncode = self._server.ask({"ended": self.pid})
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end and that of all that writes to the same pipes; what came through each."""
        said: dict[IO[str], str] = {}
        pipes = (self.stdout, self.stderr)
        readers = [threading.Thread(target=lambda pipe=pipe: said.update({pipe: pipe.read()})) for pipe in pipes]
        for reader in readers:
            reader.daemon = True
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        if len(said) < len(pipes):
            raise subprocess.TimeoutExpired(f"what the command {self.pid} has left", timeout)
        return said[self.stdout], said[self.stderr]

    def send_signal(self, number: int) -> None:
        """Signals its first process."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def ranks(self) -> list[int]:
        """The processes that it has started for its ranks, by their numbers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "spawned\n"]


class CommandServer:
    """Starts at the first command; ``stop`` ends it and the commands that still run."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._turn = threading.Lock()

    def start(self, *overrides: str, cwd: Path, **environment: str) -> Command:
        """Starts the command in the folder ``cwd``, with these variables besides those that are set here."""
        pipes = [os.pipe() for _ in range(2)]
        for _, end in pipes:
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)  # what a test does not read yet must not stop it
        streams = [os.fdopen(begin, encoding="utf-8", errors="replace") for begin, _ in pipes]
        try:
            return Command(self, self._start(overrides, cwd, environment, [end for _, end in pipes]), *streams)
        finally:
            for _, end in pipes:
                os.close(end)

    def run(self, *overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
        """Runs the command to its end, whatever it may leave behind."""
        as_text = {"mode": "w+", "encoding": "utf-8", "errors": "replace"}
        with tempfile.TemporaryFile(**as_text) as stdout, tempfile.TemporaryFile(**as_text) as stderr:
            pid = self._start(overrides, cwd, environment, [stdout.fileno(), stderr.fileno()])
            code = Command(self, pid, stdout, stderr).wait()
            texts = []
            for stream in (stdout, stderr):
                stream.seek(0)
                texts.append(stream.read())
        return subprocess.CompletedProcess(list(overrides), code, *texts)

    def _start(self, overrides: Sequence[str], cwd: Path, more: Mapping[str, str], streams: Sequence[int]) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        return self.ask({"overrides": overrides, "cwd": str(cwd), "environment": environment}, streams)

    def ask(self, request: Mapping[str, Any], streams: Sequence[int] = ()) -> int:
        """The number with which the server answers: of a process, or its exit code."""
        with self._turn:
            if self._process is None:
                self._channel, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._process = subprocess.Popen(
                    [sys.executable, __file__, str(its_end.fileno())],
                    pass_fds=[its_end.fileno()],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
                its_end.close()
            socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
            answer = self._channel.recv(_LONGEST)
            assert answer, "the process that starts commands has died"
            return json.loads(answer)

    def stop(self) -> None:
        if self._process is not None:
            self._channel.close()
            self._process.wait()


def serve(channel: socket.socket) -> None:
    """Starts commands, and says how they ended, until the other end of the channel is closed."""
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (before VISSL)

    sys.path[:] = [*sys.path[1:], str(ROOT / "benchmarks")]  # as the script finds modules, and forks besides
    forks = importlib.import_module("kills.forks")
    # What runs import; what a study does besides; what VISSL's log asks.
    for name in ("runs.imports_ahead", "runs.study"):
        importlib.import_module(f"vissl_clusterfit.launch.{name}")
    importlib.import_module("torch.utils.cpp_extension")
    sys.path.pop()
    # The groups and the trunk that most commands have in common: what keeps them once made is in memory.
    compose = importlib.import_module("vissl_clusterfit.launch.compose.compose").compose
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for config in (STUDENT, ("config=clusterfit/transfer", "config.MACHINE.DEVICE=cpu")):
            compose([*config, f"config.CHECKPOINT.DIR={folder}"])
    forks.fork_interpreters()
    forks.freeze()
    running = set()
    while (message := socket.recv_fds(channel, _LONGEST, 2))[0]:
        request, streams = json.loads(message[0]), message[1]
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
            running.remove(request["ended"])
        else:
            answer = forks.start(**request, streams=streams)
            running.add(answer)
        for stream in streams:
            os.close(stream)
        channel.send(json.dumps(answer).encode())
    for command in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command, signal.SIGKILL)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # what was imported for children is not taken apart
