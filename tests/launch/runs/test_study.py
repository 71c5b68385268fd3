"""A whole study of real runs, in a small size: it is killed, resumes, ends with its report, and does nothing again."""

import csv
import os
import signal

import pytest
from following import run_next

from vissl_clusterfit.report.results import read_results

METHODS = ["raw pixels", "untrained network", "teacher", "teacher, twice as long", "distillation", "ClusterFit"]
SEEDS, TARGETS, BENCHMARKS = ("1", "2"), ("digit", "parity"), ("linear", "knn")


@pytest.mark.slow
def test_a_study_that_is_killed_resumes_and_reports(start_command, tmp_path):
    folder = tmp_path / "a study"
    command = (
        "config=clusterfit/study/label_noise",
        f"study.folder='{folder}'",
        "config.STUDY.POINTS=[0.5]",
        "config.STUDY.SEEDS=[1,2]",
        "config.STUDY.TUNING.VALUES=[0.1]",
        *[f"config.STUDY.PICTURES.{split}=120" for split in ("PRETRAIN", "TRAIN", "VALIDATION", "TEST")],
        "config.OPTIMIZER.num_epochs=1",
        "config.CLUSTERFIT.NUM_CLUSTERS=5",
    )
    process = start_command(*command, cwd=tmp_path)
    assert any("  10 of " in line for line in process.stdout), process.stderr.read()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    made = {file: file.stat().st_mtime_ns for file in folder.rglob("study_run.json")}
    assert len(made) >= 10
    assert not (folder / "study.md").exists()

    process = start_command(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert run_next(said) == ["table", str(folder)]
    assert all(str(folder / name) in said for name in ("results.json", "study.md", "study.csv", "study.png"))
    with (folder / "study.csv").open(newline="") as file:
        found = {(line["method"], line["seed"], line["benchmark"], line["target"]) for line in csv.DictReader(file)}
    expected = {
        (method, seed, benchmark, target)
        for method in METHODS
        for seed in SEEDS[: 1 if method == "raw pixels" else 2]
        for benchmark in BENCHMARKS
        for target in TARGETS
    }
    assert found == expected
    assert len(read_results(folder)) == len(expected)
    said_by_labels = (folder / "study.md").read_text("utf-8").partition("## What the labels say")[2]
    assert [line.split("|")[1].strip() for line in said_by_labels.splitlines() if line.startswith("| ")][2:] == [
        "teacher",
        "teacher, twice as long",
        "ClusterFit",
    ]
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    # Half of the labels are wrong, and the student was trained on clusters, without any.
    labels = folder / "labels"
    assert sorted(os.listdir(labels)) == [f"wrong=0.5,seed={seed}.npy" for seed in SEEDS]
    [*students] = folder.glob("runs/ClusterFit/*/*/training/clusterfit/labels/train/labels.npy")
    assert len(students) == 2

    process = start_command(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert " done  " not in said
