"""Sweeps: ``a=1,2`` on the command line is a run for each value, and ``a=1,2 b=x,y`` one for each pair.

The runs go one after the other, each in a process of its own and in a folder of its own,
``<config.CHECKPOINT.DIR>/<what was swept>``. One that fails does not stop the others. What has finished is not run
again when the same sweep is started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vissl_clusterfit import artifacts
from vissl_clusterfit.adapters.exits import DONE, FAILED, INTERRUPTED, USER_ERROR
from vissl_clusterfit.adapters.overrides import compose_overrides, parse_overrides
from vissl_clusterfit.adapters.torchrun import is_torchrun
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.storage.places import artifact_path

#: In the folder of a run that has finished: what it was started with.
RECORD_NAME = "sweep_run.json"

_FOLDER = "config.CHECKPOINT.DIR"
_LONGEST_NAME = 100
#: How long a run may take to end after Ctrl-C, with the processes that it started.
_GRACE_S = 30


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    #: The overrides that differ from run to run.
    name: str
    overrides: tuple[str, ...]
    folder: str
    #: It ends when its job is submitted, and is not finished then.
    submits: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether it was run before, with the same overrides, to its end."""
        record = artifact_path(self.folder, _FOLDER) / RECORD_NAME
        return record.is_file() and artifacts.read_json(record) == self._record()

    def finish(self) -> None:
        """Writes down that it was run to its end."""
        artifacts.write_json(artifact_path(self.folder, _FOLDER) / RECORD_NAME, self._record())

    def _record(self) -> dict[str, list[str]]:
        return {"overrides": list(self.overrides)}


def sweep_runs(overrides: Sequence[str]) -> list[SweepRun]:
    """The runs of a sweep; none where nothing is swept, which is a single run.

    Raises:
        ConfigError: values that cannot be listed, or one of the runs has a config that cannot be composed.
    """
    parsed = parse_overrides(overrides)
    if not any(override.is_sweep_override() for override in parsed):
        return []
    if is_torchrun():
        allowed = "one value for each key under torchrun, which has started the processes of one run already"
        raise ConfigError(problem("The command", found="a sweep", allowed=allowed))
    choices = []
    for override in parsed:
        if not override.is_sweep_override():
            choices.append([(override.input_line, "")])
            continue
        if not override.is_discrete_sweep():
            allowed = "values with commas between them, which are tried one after the other"
            raise ConfigError(problem(override.input_line, found="a sweep without an end", allowed=allowed))
        lines = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        choices.append([(line, line) for line in lines])
    runs = []
    for chosen in itertools.product(*choices):
        lines = [line for line, _ in chosen]
        name = ",".join(swept for _, swept in chosen if swept)
        config = compose_overrides(lines)["config"]
        folder = f"{config['CHECKPOINT']['DIR']}/{safe_name(name)}"
        folder = folder if "://" in folder else os.path.abspath(folder)
        quoted = "'" + folder.replace("\\", "\\\\").replace("'", "\\'") + "'"
        runs.append(SweepRun(name, (*lines, f"{_FOLDER}={quoted}"), folder, config["SLURM"]["USE_SLURM"]))
    return runs


def safe_name(name: str) -> str:
    """A text as the name of a folder; texts that differ get names that differ."""
    safe = re.sub(r"[^\w.=+,-]+", "_", name, flags=re.ASCII).strip("_")
    if safe == name and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_sweep(runs: Sequence[SweepRun]) -> int:
    """Does the runs that are not done, says what became of each, and returns the exit code of the whole."""
    outcomes: dict[SweepRun, str] = dict.fromkeys(runs, "not started")
    codes = []
    try:
        with stopped_as_interrupted():
            for number, run in enumerate(runs, 1):
                if run.is_finished:
                    outcomes[run] = "was finished before"
                    continue
                print(f"Run {number} of {len(runs)}: {run.name}", flush=True)  # noqa: T201
                outcomes[run] = "interrupted"
                code = _run(run)
                if code == INTERRUPTED:
                    raise KeyboardInterrupt
                codes.append(code)
                done = "submitted" if run.submits else "finished"
                outcomes[run] = done if code == DONE else f"FAILED with exit code {code}"
    finally:
        lines = [f"{len(runs)} runs:", *(f"  {outcomes[run]}: {run.name} in {run.folder}" for run in runs)]
        print("\n".join(lines), flush=True)  # noqa: T201
    failed = {code for code in codes if code != DONE}
    return DONE if not failed else USER_ERROR if failed == {USER_ERROR} else FAILED


def _run(run: SweepRun) -> int:
    """One run to its end; stopped with all that it started when this process is."""
    # In a group of its own: the terminal's Ctrl-C comes to it once, from here, and whatever it leaves can be ended.
    # Modules are looked for where they are here; ``-c`` would have it look in the working directory first.
    start = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main_of_run; sys.exit(main_of_run())"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *run.overrides], stdin=subprocess.PIPE, start_new_session=True
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


def main_of_run() -> int:
    """What a process of a sweep runs; it is interrupted when the sweep dies, as nobody can any more."""

    def interrupt_when_alone() -> None:
        os.read(sys.stdin.fileno(), 1)  # there is nothing to read but the end; no lock is held meanwhile
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_alone, daemon=True).start()
    from vissl_clusterfit.adapters.launch import main

    return main()


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
