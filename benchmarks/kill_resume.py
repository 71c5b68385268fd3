"""Kills the command again and again, and compares what it makes in the end with what it makes unharmed.

    make bench BENCH=kill_resume                                1,000 kills, some 40 minutes on two cores
    python benchmarks/kill_resume.py --kills 60 --seed 3        a short one
    python benchmarks/kill_resume.py --scenario two-level       one kind of run alone
    python benchmarks/kill_resume.py --folder kills --kills 500 again with more, and it goes on
    python benchmarks/kill_resume.py --sum kills/*.jsonl others/*.jsonl

A sequence is a folder in which a run is started, hit at a random moment of a random stage, started again and hit again,
and in the end left alone. What hits it: SIGKILL, SIGTERM and Ctrl-C to all of its processes, to the launcher, to one
rank or one data worker; SIGSTOP for a while; a disk that is full; files cut to half after a kill. Then everything that
was made must be what an undisturbed run makes: features, codebooks, labels and scores to the byte, checkpoints to the
tensor. What was done may not be done again, no process and no temporary file may be left.

What failed is kept, with the line that does it again. The last line is one JSON object. Linux, two cores; a full disk
needs the right to mount one, else files may not grow.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import kills.single_thread  # noqa: F401  # isort: split
from kills import forks, tally
from kills.faults import Disk
from kills.scenarios import SCENARIOS, write_inputs
from kills.sequence import LONGEST_RUN_S, Sequence, Workplace, stage_at_hand
from kills.tally import Tally

_END_WITH_PARENT = 1


def main() -> int:
    """Runs the harness; the exit code is 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="again for several; default: all")
    parser.add_argument("--sequence", metavar="SEED", help="this one alone, as a failure names it")
    parser.add_argument("--jobs", type=int, default=2, help="sequences at a time")
    parser.add_argument("--folder", type=Path, help="where all of it is; what is counted there counts")
    parser.add_argument("--sum", type=Path, nargs="+", metavar="FILE", help="only add up what was counted before")
    arguments = parser.parse_args()
    if arguments.sum:
        return _say(tally.read(arguments.sum))
    base = (arguments.folder or Path(tempfile.mkdtemp(prefix="kill_resume-"))).resolve()
    base.mkdir(parents=True, exist_ok=True)
    names = arguments.scenario or list(SCENARIOS)
    before = tally.read(sorted(base.glob("*.jsonl")))
    work = base / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    place = _prepare(work, base / "failed", names)
    if arguments.sequence:
        return _say(Sequence(SCENARIOS[names[0]], arguments.sequence, place, max_kills=arguments.kills).run())
    missing = max(0, arguments.kills - before.kills)
    jobs = []
    for number in range(arguments.jobs):
        share = missing * (number + 1) // arguments.jobs - missing * number // arguments.jobs
        jobs.append(_fork_job(number, share, f"{arguments.seed}-{number}", names, place, base))
    codes = [os.waitpid(job, 0)[1] for job in jobs]
    total = tally.read(sorted(base.glob("*.jsonl")))
    place.disk.close()
    shutil.rmtree(work)
    if any(codes):
        print("A job of this benchmark itself failed.", file=sys.stderr)
    elif total.is_good and not arguments.folder:
        shutil.rmtree(base)
    return max(_say(total), int(any(codes)))


def _say(total: Tally) -> int:
    print(json.dumps(total.report()), flush=True)
    return 0 if total.is_good else 1


def _prepare(work: Path, failed: Path, names: list[str]) -> Workplace:
    """Inputs, and of each scenario an undisturbed run."""
    begun = time.monotonic()
    print("Importing VISSL, making images and a teacher.", flush=True)
    with _silence():
        forks.prepare()
        inputs = write_inputs(work / "inputs")
    forks.adopt_orphans()
    forks.freeze()
    place = Workplace(Disk(work / "disk"), inputs, {}, failed)
    for name in names:
        place.undisturbed[name] = _undisturbed(name, place, work)
        kept, durations = place.undisturbed[name]
        said = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in durations.items())
        print(f"{time.monotonic() - begun:5.0f} s  {kept.name}, undisturbed: {said}", flush=True)
    return place


def _undisturbed(name: str, place: Workplace, work: Path) -> tuple[Path, dict[str, float]]:
    """A run to its end, and how long each of its stages took."""
    sequence = Sequence(SCENARIOS[name], f"undisturbed-{name}", place, max_kills=0)
    durations: dict[str, float] = dict.fromkeys((stage.name for stage in SCENARIOS[name].stages), 0.01)
    launcher, since = sequence.start_alone(), time.time_ns()
    last = time.monotonic()
    for _ in forks.poll(LONGEST_RUN_S):
        ended = forks.reap().get(launcher)
        stage = stage_at_hand(SCENARIOS[name], sequence.folder, since)
        now = time.monotonic()
        if stage >= 0:
            durations[SCENARIOS[name].stages[stage].name] += now - last
        last = now
        if ended is not None:
            break
    if ended != 0:
        raise SystemExit(f"{name}: an undisturbed run ended with {ended}:\n{sequence.log.read_text()[-3000:]}")
    kept = work / "undisturbed" / name
    shutil.copytree(sequence.folder, kept, symlinks=True)
    shutil.rmtree(sequence.folder)
    return kept, durations


def _fork_job(number: int, kills: int, seed: str, names: list[str], place: Workplace, base: Path) -> int:
    """A process that runs sequences until it has done so many kills."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGINT, 0, 0, 0)
        forks.adopt_orphans()
        place.disk = Disk(base / "work" / f"disk-{number}")
        _job(kills, seed, names, place, base / f"counts-{number}.jsonl")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _job(kills: int, seed: str, names: list[str], place: Workplace, counts: Path) -> None:
    number = len(counts.read_text("utf-8").splitlines()) if counts.exists() else 0
    total, begun = Tally(), time.monotonic()
    while total.kills < kills:
        # The one that lacks most of its share.
        name = min(names, key=lambda name: total.by_scenario[name] / SCENARIOS[name].share)
        done = Sequence(SCENARIOS[name], f"{seed}-{number}", place, kills - total.kills).run()
        done.save(counts)
        total.add(done)
        number += 1
        so_far = f"{total.kills} of {kills} kills, {total.finished_runs} runs finished, {len(total.failures)} failed"
        this = f"{name} {seed}-{number - 1}: {done.kills} kills in {done.seconds:.0f} s"
        print(f"{time.monotonic() - begun:5.0f} s  {so_far}; {this}", flush=True)


class _silence:
    """Nothing is printed meanwhile: what a composed config says is not about a run."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self._stdout = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        os.dup2(self._stdout, 1)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # the imported libraries' own end takes seconds, and says things
