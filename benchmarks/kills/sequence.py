"""One sequence: a run is started, killed, started again …, left alone at last, and compared with an undisturbed one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kills import faults, forks
from kills.compare import differences, leftovers
from kills.faults import Disk, Fault
from kills.remedies import delete, to_delete
from kills.scenarios import Scenario
from kills.tally import Tally

_KILLS = (5, 10)
#: A run that has not ended so long after it was hit, or since it was started, hangs.
END_S, LONGEST_RUN_S = 90, 600
_STARTUP, _STARTUP_SHARE, _LONGEST_STARTUP_S = "start-up", 0.06, 0.6
_USER_ERROR, _MOST_REFUSALS = 2, 8
#: What is written once and stays as it is: a shard, an artefact, a checkpoint, a run of a study that is done. A study
#: of drawn pictures begins a training that was cut off again.
_KEPT = ("**/rows-*.json", "**/manifest.json", "model_*.torch", "**/study_run.json")


class Failed(Exception):
    """The product did not do what it must."""


@dataclass
class Workplace:
    """Where sequences are run, one after the other, and what they are compared with."""

    disk: Disk
    inputs: Path
    #: By scenario: a run that nobody disturbed, and the seconds that each of its stages took.
    undisturbed: dict[str, tuple[Path, dict[str, float]]]
    #: Of what failed: folders that are kept.
    kept: Path


class Sequence:
    """A folder, the runs that are started in it, and what befalls them.

    Args:
        scenario: what is run.
        seed: of all that is drawn: the same gives the same plan, though not the same moments to the microsecond.
        place: where.
        max_kills: the most that may still be done.
    """

    def __init__(self, scenario: Scenario, seed: str, place: Workplace, max_kills: int) -> None:
        self._scenario, self._seed, self._place = scenario, seed, place
        self._dice = random.Random(seed)
        self._num_kills = min(max_kills, self._dice.randint(*_KILLS))
        self.folder = place.disk.folder / "run"
        self._temporary = place.disk.folder.parent / f"{place.disk.folder.name}-tmp"
        self.log = self.folder.parent.parent / f"{place.disk.folder.name}.log"
        self.tally = Tally()
        self._launcher, self._code, self._since = 0, None, 0
        self._hits_of_stage: Counter[int] = Counter()
        self._done: dict[Path, tuple[int, int]] = {}
        # Files that were cut and not yet refused, and the folders where what was done may be done again.
        self._cut: list[Path] = []
        self._may_change: set[Path] = set()
        self._ever_cut: set[Path] = set()
        self._is_finished = False

    def run(self) -> Tally:
        """All of it; what happened."""
        begun = time.monotonic()
        for folder in (self.folder, self._temporary):
            shutil.rmtree(folder, ignore_errors=True)
        self._temporary.mkdir()
        self.log.write_text("", "utf-8")
        try:
            for stage, fault in self._plan():
                self._disturb(stage, fault)
                if self._is_finished:
                    break
            while not self._is_finished:
                self._ensure_started()
                self._wait_for_end(LONGEST_RUN_S)
                self._ended()
            self._compare()
        except Failed as error:
            self._end_all()
            self._keep(str(error))
        except Exception:
            self._end_all()
            self._keep(f"the harness itself failed:\n{traceback.format_exc()}")
        finally:
            self._end_all()
            self._place.disk.make_room()
        self.tally.seconds = time.monotonic() - begun
        return self.tally

    def _plan(self) -> list[tuple[int, Fault]]:
        """Stage by stage; -1 is the start of the command."""
        stages = range(len(self._scenario.stages))
        drawn = sorted(self._dice.choice(stages) for _ in range(self._num_kills))
        self._hits_of_stage.update(drawn)
        has_ranks = self._scenario.num_processes > 1 or self._scenario.is_study
        return [
            (
                -1 if self._dice.random() < _STARTUP_SHARE else stage,
                faults.draw(self._dice, has_ranks=has_ranks, has_workers=self._scenario.has_workers),
            )
            for stage in drawn
        ]

    def _disturb(self, stage: int, fault: Fault) -> None:
        """Starts the command if it does not run, waits for a random moment of a stage, and strikes."""
        self._ensure_started()
        victim = self._wait_for_moment(stage, fault)
        if victim is None:
            self._ended()
            return
        at_hand = self._stage_at_hand()
        name = self._scenario.stages[at_hand].name if at_hand >= 0 else _STARTUP
        faults.strike(fault, victim, self._place.disk, self._dice)
        self.tally.by_stage[name] += 1
        self.tally.by_kind[fault.name] += 1
        self.tally.by_scenario[self._scenario.name] += 1
        if not fault.ends:
            return
        hit = time.monotonic()
        self._wait_for_end(END_S, fault)
        self._place.disk.make_room()
        self.tally.exit_codes[f"{fault.name}: {self._code}"] += 1
        self._let_all_end(fault, END_S - (time.monotonic() - hit))
        self.tally.longest_end_s = max(self.tally.longest_end_s, round(time.monotonic() - hit, 2))
        self._is_finished = self._code == 0  # it needed no room any more, or no images
        if fault.kind == faults.FULL_DISK and self._code:
            self._require_message(f"after a full disk in {name}")
        self._account()
        if fault.kind == faults.CUT_FILES and not self._is_finished:
            cut = faults.cut_newest_files(self.folder, self._dice)
            self.tally.cut_files += len(cut)
            self._cut += cut
            self._ever_cut |= {*cut}
            self._may_change |= {path.parent for path in cut}
        self._launcher = 0

    def start_alone(self) -> int:
        """Starts a run that nothing befalls; its process."""
        self._temporary.mkdir(exist_ok=True)
        self._ensure_started()
        return self._launcher

    def _ensure_started(self) -> None:
        if self._launcher:
            return
        self.tally.starts += 1
        command = self._scenario.command(self.folder, self._place.inputs, self._dice)
        self._since, self._code = time.time_ns(), None
        with self.log.open("ab") as log:
            self._launcher = forks.start(
                command,
                cwd=self.log.parent,
                streams=(log.fileno(), log.fileno()),
                environment={**os.environ, "TMPDIR": str(self._temporary)},
            )

    def _wait_for_moment(self, stage: int, fault: Fault) -> int | None:
        """The process that is to be hit, at a random moment of a stage; None if the run ended before."""
        delay_s = self._dice.random() * (self._longest_delay_s(stage) if stage >= 0 else _LONGEST_STARTUP_S)
        reached_s = 0.0 if stage < 0 else None
        for passed_s in forks.poll(LONGEST_RUN_S, 0.008):
            if self._has_ended():
                return None
            if reached_s is None and self._stage_at_hand() >= stage:
                reached_s = passed_s
            if reached_s is not None and passed_s - reached_s >= delay_s:
                found = faults.victims(fault, self._launcher)
                if found:
                    return self._dice.choice(found)
        raise Failed(f"the run did not come to its end in {LONGEST_RUN_S} s")

    def _longest_delay_s(self, stage: int) -> float:
        """Such that all hits of a stage find it at work, as each start does a part of it, and some come to its end."""
        duration_s = self._place.undisturbed[self._scenario.name][1][self._scenario.stages[stage].name]
        return duration_s * min(1.0, 2 / self._hits_of_stage[stage])

    def _stage_at_hand(self) -> int:
        return stage_at_hand(self._scenario, self.folder, self._since)

    def _has_ended(self) -> bool:
        self._code = forks.reap().get(self._launcher, self._code)
        return self._code is not None

    def _wait_for_end(self, limit_s: float, fault: Fault | None = None) -> None:
        for _ in forks.poll(limit_s):
            if self._has_ended():
                return
        raise Failed(f"it does not end in {limit_s} s{f' after {fault.name}' if fault else ''}:\n{_tree()}")

    def _let_all_end(self, fault: Fault | None, limit_s: float) -> None:
        """What the command started must end with it."""
        for _ in forks.poll(max(10.0, limit_s)):
            forks.reap()
            if not (left := forks.descendants()):
                return
        self.tally.orphans += len(left)
        raise Failed(f"orphans{f' after {fault.name}' if fault else ''}:\n{_tree()}")

    def _ended(self) -> None:
        """The command ended by itself: it must have done all, unless it was given a cut file."""
        self._launcher = 0
        self._let_all_end(None, END_S)
        self._account()
        if self._code == 0:
            self._is_finished = True
            return
        if not self._cut:
            raise Failed(f"exit code {self._code}:\n{self._last_words()}")
        self._require_message(f"after these were cut: {', '.join(map(str, self._cut))}")
        self.tally.refusals += 1
        if self.tally.refusals > _MOST_REFUSALS:
            raise Failed(f"refused again and again:\n{self._last_words()}")
        for place in to_delete(self._last_words(1), self.folder, self._cut):
            delete(place)
            self._done = {path: state for path, state in self._done.items() if not path.is_relative_to(place)}
            self._cut = [path for path in self._cut if not path.is_relative_to(place)]

    def _require_message(self, when: str) -> None:
        if self._code != _USER_ERROR:
            said = f"{self._how()}: exit code {self._code} {when}: {self._last_words(3)}"
            self.tally.tracebacks.append(said)
            print(said, flush=True)
            self._save_log(f"traceback-{len(self.tally.tracebacks)}")

    def _account(self) -> None:
        """What was done before must be there as it was; what was in work when all ended may be done again."""
        now = {path: _identity(path) for path in _kept_files(self.folder)}
        lost = sorted(
            str(path)
            for path, state in self._done.items()
            if now.get(path) != state and path.parent not in self._may_change
        )
        self.tally.shards_in_work += len(list(self.folder.glob("**/leases/*.json")))
        self._done = now
        if lost:
            self.tally.lost += len(lost)
            raise Failed(f"done before, and not as it was: {', '.join(lost[:5])}")

    def _compare(self) -> None:
        expected = self._place.undisturbed[self._scenario.name][0]
        self.tally.left_in_tmp += sum(1 for _ in self._temporary.iterdir())
        self.tally.shards += len(list(self.folder.glob("**/rows-*.json")))
        left = leftovers(self.folder)
        if different := differences(expected, self.folder, self._ever_cut):
            raise Failed(f"not what an undisturbed run makes: {'; '.join(different[:10])}")
        if left:
            raise Failed(f"left behind: {', '.join(left[:10])}")
        self.tally.finished_runs += 1

    def _keep(self, reason: str) -> None:
        self.tally.failures.append(f"{self._how()}: {reason}")
        folder = self._save_log("failed")
        shutil.copytree(self.folder, folder / "run", symlinks=True, ignore_dangling_symlinks=True, dirs_exist_ok=True)
        print(f"FAILED {self._how()}: {reason}\n  kept: {folder}", flush=True)

    def _save_log(self, name: str) -> Path:
        folder = self._place.kept / f"{self._seed}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.log, folder / "output.txt")
        return folder

    def _how(self) -> str:
        return f"--scenario {self._scenario.name} --sequence {self._seed}"

    def _last_words(self, number: int = 12) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-number:])

    def _end_all(self) -> None:
        """Ends what this harness started and is still there."""
        for _ in forks.poll(30, 0.05):
            forks.reap()
            if not (left := forks.descendants()):
                return
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def stage_at_hand(scenario: Scenario, folder: Path, since_ns: int) -> int:
    """The last stage that has written since then; -1 if none has."""
    for number, stage in reversed([*enumerate(scenario.stages)]):
        patterns = [*stage.writes, *(("log.txt",) if stage.after else ())]
        if not all((folder / name).exists() for name in stage.after):
            continue
        try:
            if any(path.lstat().st_mtime_ns > since_ns for pattern in patterns for path in folder.glob(pattern)):
                return number
        except FileNotFoundError:  # it is at it, and has just removed something
            return number
    return -1


def _kept_files(folder: Path) -> list[Path]:
    found = (path for pattern in _KEPT for path in folder.glob(pattern))
    return [path for path in found if "in_progress" not in path.parts and not path.is_symlink() and _is_whole(path)]


def _is_whole(path: Path) -> bool:
    """A manifest that is there from the beginning says so, and is written again at the end."""
    return path.name != "manifest.json" or b'"complete": false' not in path.read_bytes()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _tree() -> str:
    return "\n".join(
        f"  {process}, child of {parent}: {name}, {_wait_channel(process)}"
        for process, (parent, name) in forks.descendants().items()
    )


def _wait_channel(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/wchan").read_text() or "?"
    return "ended"
