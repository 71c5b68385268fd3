"""The quickstart as a user runs it, in its small size: the scores mean nothing, the way to them is the real one."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from browser import WHY_NOT, started
from repository import ROOT
from results_file import rows_in

QUICKSTART = ROOT / "tools/quickstart.py"
MODELS = ["raw pixels", "untrained network", "teacher", "teacher, twice as long", "student"]


def quickstart(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, QUICKSTART, "--small", "--control", "--folder", folder.name],  # relative, as a user has it
        cwd=folder.parent,
        env={**os.environ, "VISSL_DATASET_CATALOG_PATH": ""},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("first") / "quickstart"
    return folder, quickstart(folder)


@pytest.mark.slow
def test_it_ends_with_a_table_and_its_rows(first):
    folder, done = first
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_in(folder)
    assert [(row["model"], row["benchmark"]) for row in rows] == [(m, b) for m in MODELS for b in ("linear", "knn")]
    assert all(0 <= row["value"] <= 1 and len(row["protocol"]) > 100 for row in rows)
    table = done.stdout.split("top-1 accuracy, in %")[1]
    for model in MODELS:
        linear, knn = (100 * row["value"] for row in rows if row["model"] == model)
        assert [f"{linear:.1f}", f"{knn:.1f}"] == next(
            line for line in table.splitlines() if line.startswith(f"{model}  ")
        ).split()[-2:]
    assert "the clusters, to look at: quickstart/report.html" in done.stdout
    assert "<title>" in (folder / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_its_page_shows_clusters_and_student_in_a_browser(first):
    folder, _ = first
    with started() as browser:
        browser.open(folder / "report.html")
        browser.load_pictures()
        assert (browser.errors, browser.requests) == ([], [(folder / "report.html").as_uri()])
        assert {"Made from", "Figures", "Clusters", "Student"} <= {*browser.texts("h2")}
        assert len(browser.all(".strip img")) > 50
        student = "section[aria-labelledby=student]"
        drawn = [plot.get_attribute("aria-label").partition(":")[0] for plot in browser.all(f"{student} svg")]
        assert drawn == ["loss over iteration", "% over epoch"]
        assert browser.texts(f"{student} tbody td:first-child") == MODELS


@pytest.mark.slow
def test_what_is_done_is_not_done_again(first):
    folder, done = first
    files = [*folder.rglob("*.torch"), *folder.rglob("*.npy"), *folder.rglob("*.png")]
    before = {file: file.stat().st_mtime_ns for file in files}
    again = quickstart(folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert _table(again) == _table(done)


@pytest.mark.slow
def test_another_run_gives_the_same_figures(first, tmp_path):
    other = quickstart(tmp_path / "quickstart")
    assert other.returncode == 0, other.stdout + other.stderr
    assert _table(other) == _table(first[1])


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["Writing", "Evaluating: raw pixels", "raw pixels: done"])
def test_ctrl_c_ends_all_that_it_started(seen, tmp_path):
    """While pictures are drawn, before the first run has begun, and in the training of the teacher."""
    process = subprocess.Popen(
        [sys.executable, QUICKSTART, "--small"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert any(seen in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=60)  # to the end of all that has its output
    assert (process.returncode, said.splitlines()[-1]) == (130, "Interrupted.")
    assert "Traceback" not in said
    assert "Evaluating: student" not in said
    assert not [number for number in os.listdir("/proc") if number.isdigit() and _folder_of(number) == str(tmp_path)]


def _folder_of(process: str) -> str:
    with contextlib.suppress(OSError):  # it has ended
        return os.readlink(f"/proc/{process}/cwd")
    return ""


def _table(done: subprocess.CompletedProcess) -> str:
    return done.stdout.split("top-1 accuracy, in %")[1].split("Done in")[0]
