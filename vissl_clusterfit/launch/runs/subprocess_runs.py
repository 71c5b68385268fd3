"""Several runs of the command, one after the other, each in a separate process and folder.

One that fails does not stop the others. What has finished leaves a record in its folder, and is not run again with the
same overrides.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.launch.processes.failures import DONE, FAILED, INTERRUPTED, USER_ERROR, strip_worker_traceback
from vissl_clusterfit.launch.processes.torchrun import without_torchrun
from vissl_clusterfit.progress.ending import next_command
from vissl_clusterfit.report.results import RESULTS_NAME
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path

#: How long a run may take to end after Ctrl-C, with the processes that it started.
_GRACE_S = 30
_FAILED = "FAILED"
#: The main module of a run, by name: it is above this one.
_MAIN = "vissl_clusterfit.launch.supervised"


@dataclass(frozen=True)
class SubprocessRun:
    """One run of the command."""

    #: What tells it from the others.
    name: str
    overrides: tuple[str, ...]
    folder: str
    #: It ends when its job is submitted, and is not finished then.
    submits: bool = False

    #: In the folder of a run that has finished: what it was started with.
    record_name: ClassVar[str] = "sweep_run.json"

    @property
    def is_finished(self) -> bool:
        """Whether it was run before, as it would be now, to its end."""
        record = artifact_path(self.folder) / self.record_name
        return record.is_file() and artifacts.read_json(record) == self.record()

    def begin(self) -> None:
        """Called before it is run."""

    def finish(self) -> None:
        """Writes down that it was run to its end; called again where that was before."""
        artifacts.write_json(artifact_path(self.folder) / self.record_name, self.record())

    def record(self) -> dict[str, Any]:
        """What must be the same for it to be the same run."""
        return {"overrides": list(self.overrides)}


def run_all(runs: Sequence[SubprocessRun], kind: str = "run") -> int:
    """Does the runs that are not done, says what became of each, failures last, and returns the exit code of the whole.

    Args:
        runs: in order.
        kind: what one of them is, for people.
    """
    outcomes: dict[SubprocessRun, str] = dict.fromkeys(runs, "not started")
    codes = []
    try:
        with stopped_as_interrupted():
            for number, run in enumerate(runs, 1):
                outcomes[run] = "interrupted"
                try:
                    if run.is_finished:
                        run.finish()
                        outcomes[run] = "was finished before"
                        continue
                    print(f"{kind.capitalize()} {number} of {len(runs)}: {run.name}", flush=True)  # noqa: T201
                    code = _run(run)
                except ClusterFitError as error:
                    print(f"error: {strip_worker_traceback(error)}", file=sys.stderr, flush=True)  # noqa: T201
                    code = USER_ERROR
                if code == INTERRUPTED:
                    raise KeyboardInterrupt
                codes.append(code)
                done = "submitted" if run.submits else "finished"
                outcomes[run] = done if code == DONE else f"{_FAILED} with exit code {code}"
    finally:
        last = sorted(runs, key=lambda run: outcomes[run].startswith(_FAILED))
        lines = [f"{len(runs)} {kind}s:", *(f"  {outcomes[run]}: {run.name} in {run.folder}" for run in last)]
        with_rows = [run.folder for run in runs if (artifact_path(run.folder) / RESULTS_NAME).is_file()]
        lines += [f"next: {next_command(['table', *with_rows])}"] if with_rows else []
        print("\n".join(lines), flush=True)  # noqa: T201
    failed = {code for code in codes if code != DONE}
    return DONE if not failed else USER_ERROR if failed == {USER_ERROR} else FAILED


def python_command(module: str, function: str) -> list[str]:
    """The command of a process that ends with what a function of this package returns.

    Modules are looked for where they are here; ``-c`` would have it look in the working directory first.
    """
    start = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-c", start]


def _run(run: SubprocessRun) -> int:
    """One run to its end; stopped with all that it started when this process is."""
    # In a separate group: the terminal's Ctrl-C comes to it once, from here, and whatever it leaves can be ended.
    run.begin()
    process = subprocess.Popen(
        [*python_command(_MAIN, "main_of_run"), *run.overrides],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=without_torchrun(os.environ),
    )
    code = None
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        raise
    finally:
        if code != DONE:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.stdin.close()
        process.wait()
    if code == DONE and not run.submits:
        run.finish()
    return code


def interrupt_after(wait: Callable[[], object]) -> None:
    """Interrupts this process once ``wait`` returns, which it does when the process that started this one is gone.

    What a script starts in the background ignores interrupts, and so would this process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


@contextlib.contextmanager
def stopped_as_interrupted() -> Iterator[None]:
    """While it lasts, being told to end (``kill``, a closed terminal) is Ctrl-C: runs are not left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
