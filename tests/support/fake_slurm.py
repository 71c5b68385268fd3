"""A SLURM of one machine: its commands on the PATH, and jobs that really run.

``FakeSlurm`` puts ``sbatch``, ``srun``, ``scontrol``, ``scancel``, ``squeue`` and ``sacct`` into a folder; each is this
file. A job has a keeper, a process that waits for what the job depends on, runs its script in a session of its own,
runs it again after ``scontrol requeue``, and writes down how it ended. The nodes of a job are all this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "squeue", "sacct")
PARTITIONS = ("cheap", "fast")
LIMIT_S = 240  # on a machine that does other things, too
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


class FakeSlurm:
    """The cluster as a test sees it. ``folder`` holds its commands and the state of its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name in COMMANDS:
            command = self.bin / name
            command.write_text(
                f"#!/bin/bash\nFAKE_SLURM={shlex.quote(str(folder))} "
                f'exec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {name} "$@"\n'
            )
            command.chmod(0o755)

    @property
    def hold(self) -> Path:
        """While this file is there, jobs are queued and not started."""
        return self.folder / "hold"

    def jobs(self) -> list[str]:
        return sorted(file.stem for file in self.folder.glob("*.json"))

    def state(self, job: str) -> str:
        return _read(self.folder, job)["state"]

    def starts(self, job: str) -> int:
        return _read(self.folder, job)["starts"]

    def options(self, job: str) -> dict[str, str]:
        """The #SBATCH lines of a job."""
        return _options(Path(_read(self.folder, job)["script"]))

    def wait(self, condition, limit_s: float = LIMIT_S) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, {job: _read(self.folder, job) for job in self.jobs()}
            time.sleep(0.05)

    def wait_for_end(self, *jobs: str) -> list[str]:
        self.wait(lambda: all(self.state(job) in ENDED for job in jobs))
        return [self.state(job) for job in jobs]

    def warn(self, job: str) -> None:
        """What SLURM does some time before it preempts a job, or the job's time is over."""
        subprocess.run([str(self.bin / "scancel"), "--signal=USR2", job], check=True)

    def stop(self) -> None:
        for job in self.jobs():
            for pid in (_read(self.folder, job).get("keeper"), *_processes(_read(self.folder, job).get("session"))):
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def _read(folder: Path, job: str) -> dict:
    return json.loads((folder / f"{job}.json").read_text())


def _write(folder: Path, job: str, **changes: object) -> None:
    """Only one process at a time writes of a job: sbatch, then its keeper."""
    file = folder / f"{job}.json"
    beside = folder / f"{job}.new"
    beside.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **changes}))
    beside.replace(file)


def _options(script: Path) -> dict[str, str]:
    lines = [shlex.split(line)[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.removeprefix("--").partition("=") for line in lines)}


def _processes(session: int | None, *, but: tuple[int, ...] = ()) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            pid = int(stat.parent.name)
            if int(its_session) == session and state != "Z" and pid not in but:
                found.append(pid)
    return found


def sbatch(folder: Path, script: str) -> int:
    options = _options(Path(script))
    if options.get("partition", PARTITIONS[0]) not in PARTITIONS:
        sys.stderr.write(f"sbatch: error: invalid partition specified: {options['partition']}\n")
        return 1
    job = str(100 + len(list(folder.glob("*.json"))))
    kept = folder / f"{job}.sh"
    kept.write_text(Path(script).read_text())
    _write(folder, job, state="PENDING", starts=0, script=str(kept))
    if not (folder / "hold").exists():
        subprocess.Popen(
            [sys.executable, __file__, "keep", job],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=(folder / f"{job}.keeper").open("w"),
            stderr=subprocess.STDOUT,
        )
    sys.stdout.write(f"Submitted batch job {job}\n")
    return 0


def keep(folder: Path, job: str) -> int:
    options = _options(folder / f"{job}.sh")
    _write(folder, job, keeper=os.getpid())
    if dependency := options.get("dependency"):
        before = dependency.removeprefix("afterok:")
        while (state := _read(folder, before)["state"]) not in ENDED:
            time.sleep(0.05)
        if state != "COMPLETED":
            assert options["kill-on-invalid-dep"] == "yes"
            _write(folder, job, state="CANCELLED")
            return 0
    for start in range(1, 20):
        (folder / f"{job}.requeue").unlink(missing_ok=True)
        code = _run(folder, job, options, start)
        if (folder / f"{job}.cancel").exists():
            _write(folder, job, state="CANCELLED")
            return 0
        if not (folder / f"{job}.requeue").exists():
            _write(folder, job, state="FAILED" if code else "COMPLETED", code=code)
            return 0
    raise AssertionError("the job is queued for ever")


def _run(folder: Path, job: str, options: dict[str, str], start: int) -> int:
    log = options["output"].replace("%j", job).replace("%t", "0")
    nodes = options["nodes"]
    with open(log, "a") as output:
        process = subprocess.Popen(
            ["bash", str(folder / f"{job}.sh")],
            start_new_session=True,
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                "SLURM_JOB_ID": job,
                "SLURM_JOB_NUM_NODES": nodes,
                "SLURM_NTASKS": nodes,
                "SLURM_JOB_NODELIST": ",".join(["localhost"] * int(nodes)),
                "SLURM_RESTART_COUNT": str(start - 1),
            },
        )
    _write(folder, job, state="RUNNING", session=process.pid, starts=start)
    while process.poll() is None:
        if any((folder / f"{job}.{word}").exists() for word in ("requeue", "cancel")):
            time.sleep(1)  # SLURM's patience is longer
            break
        time.sleep(0.05)
    for pid in _processes(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.wait()


def srun(folder: Path, *args: str) -> int:
    """One task per node."""
    words, options = list(args), {}
    while words[0].startswith("--"):
        name, has_value, value = words.pop(0).partition("=")
        options[name] = value if has_value or name == "--unbuffered" else words.pop(0)
    job = os.environ["SLURM_JOB_ID"]
    (folder / f"{job}.srun").write_text(str(os.getpid()))
    tasks = []
    for number in map(str, range(int(os.environ["SLURM_NTASKS"]))):
        out, err = (  # closed with this process
            os.open(options[name].replace("%j", job).replace("%t", number), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for name in ("--output", "--error")
        )
        place = {"SLURM_PROCID": number, "SLURM_NODEID": number, "SLURM_LOCALID": "0"}
        here = {"SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"], "SLURMD_NODENAME": "localhost"}
        tasks.append(subprocess.Popen(words, stdout=out, stderr=err, env={**os.environ, **place, **here}))
    codes: list[int | None] = [None]
    while None in codes:
        codes = [task.poll() for task in tasks]
        if any(codes) and options.get("--kill-on-bad-exit") == "1":
            for task in tasks:
                task.kill()
        time.sleep(0.05)
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def scontrol(folder: Path, action: str, job: str) -> int:
    assert action == "requeue"
    assert "requeue" in _options(folder / f"{job}.sh"), "Requested operation is presently disabled"
    (folder / f"{job}.requeue").touch()
    return 0


def scancel(folder: Path, *args: str) -> int:
    """With a signal: to every process of the job but the script and srun, as where SLURM tracks sessions."""
    sent = next((arg.removeprefix("--signal=") for arg in args if arg.startswith("--signal=")), None)
    for job in (arg for arg in args if not arg.startswith("--")):
        if sent is None:
            (folder / f"{job}.cancel").touch()
            if _read(folder, job)["state"] == "PENDING" and (folder / "hold").exists():
                _write(folder, job, state="CANCELLED")
            continue
        session = _read(folder, job)["session"]
        but = (session, int((folder / f"{job}.srun").read_text()))
        for pid in _processes(session, but=but):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[f"SIG{sent}"])
    return 0


def squeue(folder: Path, *args: str) -> int:
    wanted = re.findall(r"\d+", " ".join(args))
    sys.stdout.write("JOBID STATE\n")
    for file in sorted(folder.glob("*.json")):
        state = _read(folder, file.stem)["state"]
        if file.stem in wanted and state not in ENDED:
            sys.stdout.write(f"{file.stem} {state}\n")
    return 0


def sacct(folder: Path, *args: str) -> int:
    sys.stdout.write("JobID|State|NodeList\n")
    for job in (arg for arg in args if arg.isdigit()):
        sys.stdout.write(f"{job}|{_read(folder, job)['state']}|localhost\n")
    return 0


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    sys.exit(globals()[name](Path(os.environ["FAKE_SLURM"]), *arguments))
