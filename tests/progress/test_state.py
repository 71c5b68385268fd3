"""What one moment of a step says, and how it comes to a command that watches."""

import contextlib
import subprocess
import sys
import time

import pytest

from vissl_clusterfit.progress.display import Display
from vissl_clusterfit.progress.state import VARIABLE, ProgressState, duration, look, tell
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.progress.watch import watch


@pytest.mark.parametrize(
    "seconds, text",
    [
        *((0, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (61, "1 min 01 s"), (3540, "59 min 00 s")),
        *((3599, "59 min 59 s"), (3600, "1 h 00 min"), (3700, "1 h 01 min"), (86399, "23 h 59 min")),
        *((9e4, "1 d 1 h"), (200_000, "2 d 7 h")),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, text):
    assert duration(seconds) == text


def test_rate_and_time_left_are_said_once_they_are_known():
    state = ProgressState("Extracting", 0, 2048, "samples")
    assert (state.amount, state.seconds_left) == ("0 of 2,048 samples", None)
    slow = ProgressState("Clustering", 3, 20, "iterations", 0.25, "objective 0.1")
    assert slow.amount == "3 of 20 iterations, 0.25 iterations/s, 1 min 08 s left, objective 0.1"
    assert ProgressState("Extracting", 9, 9, "samples", 3.0).amount == "9 of 9 samples, 3 samples/s"


def test_a_state_comes_back_whole_and_a_damaged_one_is_none(tmp_path, monkeypatch):
    place = tmp_path / "progress.json"
    assert look(place) is None
    monkeypatch.setenv(VARIABLE, str(place))
    state = ProgressState("Training", 7, 9, "steps", 1.5, "loss 2.3")
    tell(state)
    assert look(place) == state
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
    for damage in ('{"step": "T', "[]", '{"step": "T"}'):
        place.write_text(damage)
        assert look(place) is None


def test_a_state_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "not there" / "progress.json"))
    with Progress("Labelling", 10, "samples") as progress:
        progress.complete()
    assert progress.done == 10


def test_what_was_done_before_does_not_count_in_the_rate(tmp_path, monkeypatch):
    place = tmp_path / "progress.json"
    monkeypatch.setenv(VARIABLE, str(place))
    with Progress("Extracting", 1000, "samples", done=990) as progress:
        time.sleep(0.2)
        progress.complete()
    assert look(place).rate < 10 / 0.2


@pytest.mark.parametrize("job, expected", [("", [10, 40, 70, 100]), ("17", [10, 70])])
def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, job, expected):
    now, said = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    lines = Display(lambda line: said.append((now[0], line)), "Stage 1 of 2: ")
    for second in range(120):
        now[0] = second
        lines.show(ProgressState("Extracting", second + 1, 120, "samples", 1.0))
    lines.close()
    assert [second for second, _ in said] == expected
    assert said[0][1] == "Stage 1 of 2: Extracting: 9 %, 11 of 120 samples, 1 samples/s, 1 min 49 s left"


RUN = """
import time
from vissl_clusterfit.progress.step import Progress
for step in ("Extracting", "Clustering"):
    with Progress(step, 4, "things") as progress:
        for _ in range(4):
            time.sleep(0.3)
            progress.add(1)
raise SystemExit(7)
"""


def test_a_command_sees_the_steps_of_a_run_that_it_started(tmp_path, monkeypatch):
    place, said = tmp_path / "progress.json", []
    monkeypatch.setattr("vissl_clusterfit.progress.display._FIRST_LINE_S", 0.0)
    monkeypatch.setattr("vissl_clusterfit.progress.display._LINE_S", 0.0)
    monkeypatch.setenv(VARIABLE, str(place))
    process = subprocess.Popen([sys.executable, "-c", RUN])

    def code_within(seconds: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode

    assert watch(code_within, place, said.append, "1 of 1: ") == 7
    assert {line.split(" ", 3)[3].split(":")[0] for line in said} == {"Extracting", "Clustering"}
    assert not place.exists()
