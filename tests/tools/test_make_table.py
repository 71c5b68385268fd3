"""The real command, on files as runs leave them."""

import csv
import subprocess
import sys

import pytest
from repository import ROOT

from vissl_clusterfit.report.results import ResultRow, append_results

TOOL = ROOT / "tools/make_table.py"


def make_table(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True)


def row(model, seed, value, protocol="20 neighbours"):
    return ResultRow(model, "knn", "CIFAR-100", "test", "top-1 accuracy", value, protocol, seed)


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / "runs" / f"seed{seed}" for seed in range(3)]
    for seed, folder in enumerate(folders):
        append_results(folder, [row("student", seed, 0.5 + seed / 100), row("teacher", seed, 0.4)])
    append_results(folders[0], [row("student", 0, 0.6, "200 neighbours")])
    return folders


def test_seeds_protocols_and_published_figures_in_one_table(runs, tmp_path):
    again = runs[1] / "results.json"
    done = make_table(*runs, again, "--output", tmp_path / "tables")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (tmp_path / "tables/table.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert lines[0] == ["CIFAR-100, test, top-1 accuracy, in %, mean ± half-width of the 95 % t interval over n seeds"]
    assert lines[2] == ["model", "knn [1]", "knn [2]", "knn, published [3]"]
    assert lines[4] == ["student", "51.0 ± 2.5 (n = 3)", "60.0", "-"]  # 4.3027 * 1 / sqrt(3)
    assert lines[5] == ["teacher", "40.0 ± 0.0 (n = 3)", "-", "-"]
    assert lines[6] == ["ClusterFit", "-", "-", "72.5"]
    assert [line[0].split(":")[0] for line in lines[8:]] == ["[1] 20 neighbours", "[2] 200 neighbours", "[3] published"]
    with open(tmp_path / "tables/table.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(line["model"], line["n"], line["protocol"][:14]) for line in found] == [
        ("student", "3", "20 neighbours"),
        ("student", "1", "200 neighbours"),
        ("teacher", "3", "20 neighbours"),
        ("ClusterFit", "", "published: Tou"),
    ]


def test_csv_alone_and_no_published_figures(runs, tmp_path):
    done = make_table(runs[0], "--csv", tmp_path / "mine.csv", "--no-published")
    assert done.returncode == 0
    assert "published" not in done.stdout + (tmp_path / "mine.csv").read_text()
    assert (tmp_path / "mine.csv").read_text().count("\n") == 4


def test_mistakes_end_with_one_message_and_nothing_written(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/results.json").write_text("[]")
    (tmp_path / "other.json").write_text('{"epochs": 3}')
    for wrong, message in (
        (tmp_path / "nowhere", "nowhere/results.json is missing"),
        (tmp_path / "empty", "empty/results.json has no rows"),
        (tmp_path / "other.json", "other.json must hold a JSON list of rows, found dict"),
    ):
        done = make_table(runs[0], wrong, "--output", tmp_path / "tables")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "tables").exists()
