"""The command in a process of its own for every run, each forked from one that has imported VISSL already.

A fresh interpreter spends seconds on imports, and these tests start the command often. What a run does, prints and
returns is what ``tools/run_distributed_engines.py`` does, prints and returns, as that only calls ``main``.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


class CommandServer:
    """Starts at the first run; ``stop`` ends it and whatever it left running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def run(self, *overrides: str, cwd: Path) -> subprocess.CompletedProcess:
        """Runs the command to its end in the folder ``cwd``."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        with tempfile.TemporaryDirectory() as folder:
            said = {name: Path(folder) / name for name in ("stdout", "stderr")}
            request = {"argv": overrides, "cwd": str(cwd), **{name: str(file) for name, file in said.items()}}
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, "the process that starts commands has died"
            texts = {name: file.read_text("utf-8", "replace") for name, file in said.items()}
        return subprocess.CompletedProcess(list(overrides), json.loads(answer), **texts)

    def ranks(self) -> list[int]:
        """The processes that the command which runs now has started for its ranks, by their numbers."""
        return [
            rank
            for launcher in _children(self._process.pid)
            for rank in _children(launcher)
            if b"multiprocessing.spawn" in Path(f"/proc/{rank}/cmdline").read_bytes()
        ]

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def serve() -> None:
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (before VISSL)

    for name in ("vissl_clusterfit.launch.runs.process_pool", "torch.utils.cpp_extension"):
        importlib.import_module(name)  # the first imports what every run does, the second is what VISSL's log asks
    # Hydra's plugins and parser, and VISSL's defaults.
    importlib.import_module("vissl.utils.hydra_config").compose_hydra_configuration(
        ["config=test/cpu_test/test_cpu_resnet_simclr"]
    )
    gc.collect()
    gc.freeze()  # a child that collects what it shares with its parent would copy it
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            run(**request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201  (the answer)


def run(argv: list[str], cwd: str, stdout: str, stderr: str) -> None:
    from vissl_clusterfit.launch.main import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(cwd)
    code = main(argv)
    # As an interpreter ends, but for the objects that all children share: taking those apart would copy them.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
