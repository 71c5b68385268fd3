import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.report.results import ResultRow, append_results, read_results, read_runs, record_scores

ROW = ResultRow(
    model="student",
    benchmark="linear",
    dataset="digits",
    split="test",
    metric="top-1 accuracy",
    value=0.915,
    protocol="logistic regression",
    seed=0,
)

APPENDING = """
import sys
from pathlib import Path
from vissl_clusterfit.report.results import ResultRow, append_results
for seed in range(int(sys.argv[3])):
    row = ResultRow(sys.argv[2], "linear", "digits", "test", "top-1 accuracy", seed / 1000, "p", seed)
    append_results(Path(sys.argv[1]), [row])
"""


def appending(folder, model, count):
    """A process that appends rows one by one."""
    return subprocess.Popen([sys.executable, "-c", APPENDING, str(folder), model, str(count)])


def test_rows_come_back_as_they_went_in(tmp_path):
    rows = [ROW, dataclasses.replace(ROW, model='Lehrer ü "quoted"', value=0.1 + 0.2, seed=2**40)]
    append_results(tmp_path / "run" / "deep", rows)
    assert read_results(tmp_path / "run" / "deep") == rows


def test_recorded_scores_are_reported_too(tmp_path):
    said = []
    record_scores(tmp_path, iter([ROW]), said.append)
    assert read_results(tmp_path) == [ROW]
    assert said == ["linear of student on digits: 91.50 % top-1 accuracy."]


def test_the_file_is_a_list_of_objects_with_the_agreed_keys(tmp_path):
    append_results(tmp_path, [ROW])
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {
            "model": "student",
            "benchmark": "linear",
            "dataset": "digits",
            "split": "test",
            "metric": "top-1 accuracy",
            "value": 0.915,
            "protocol": "logistic regression",
            "seed": 0,
        }
    ]


def test_a_repeated_evaluation_replaces_its_row_in_place(tmp_path):
    other = dataclasses.replace(ROW, model="teacher")
    append_results(tmp_path, [ROW, other])
    append_results(tmp_path, [dataclasses.replace(ROW, value=0.5)])
    assert read_results(tmp_path) == [dataclasses.replace(ROW, value=0.5), other]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "teacher"},
        {"benchmark": "kNN"},
        {"dataset": "cars"},
        {"split": "validation"},
        {"metric": "mAP"},
        {"protocol": "logistic regression, max_iter 50"},
        {"seed": 1},
    ],
)
def test_a_row_that_differs_in_any_other_key_stands_beside(tmp_path, change):
    other = dataclasses.replace(ROW, **change)
    append_results(tmp_path, [ROW])
    append_results(tmp_path, [other])
    assert read_results(tmp_path) == [ROW, other]


def test_of_one_row_twice_in_a_call_the_last_counts(tmp_path):
    append_results(tmp_path, [ROW, dataclasses.replace(ROW, value=0.25)])
    assert read_results(tmp_path) == [dataclasses.replace(ROW, value=0.25)]


def test_processes_that_append_at_once_lose_nothing_and_show_whole_files(tmp_path):
    models, count = ["a", "b", "c", "d"], 25
    append_results(tmp_path, [ROW])
    processes = [appending(tmp_path, model, count) for model in models]
    num_reads = 0
    while any(process.poll() is None for process in processes):
        assert read_results(tmp_path)[0] == ROW
        num_reads += 1
    assert [process.returncode for process in processes] == [0] * 4
    assert num_reads > 10
    found = {(row.model, row.seed) for row in read_results(tmp_path)[1:]}
    assert found == {(model, seed) for model in models for seed in range(count)}
    assert len(read_results(tmp_path)) == 1 + 4 * count


def test_a_killed_process_leaves_a_whole_file_and_no_lock(tmp_path):
    process = appending(tmp_path, "killed", 100_000)
    while not (tmp_path / "results.json").exists() or len(read_results(tmp_path)) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = read_results(tmp_path)
    assert [row.seed for row in before] == list(range(len(before)))
    append_results(tmp_path, [ROW])
    assert read_results(tmp_path) == [*before, ROW]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    append_results(tmp_path, [ROW])
    listing = sorted(os.listdir(tmp_path))

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ArtifactError, match="No space left"):
            append_results(tmp_path, [dataclasses.replace(ROW, seed=1)])
    assert read_results(tmp_path) == [ROW]
    assert sorted(os.listdir(tmp_path)) == listing


VALID = dataclasses.asdict(ROW)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON.*Repair it, or move it away"),
        (json.dumps([VALID])[:-9], "cannot be read as JSON"),
        (json.dumps({"rows": [VALID]}), "must hold a JSON list of rows, found dict"),
        (json.dumps([VALID, 3]), "row 1: found int; allowed: an object of model, benchmark"),
        (json.dumps([{**VALID, "note": "mine"}]), "row 0: found benchmark, dataset, metric, model, note"),
        (json.dumps([{k: v for k, v in VALID.items() if k != "seed"}]), "row 0: found .*; allowed: .*seed"),
        (json.dumps([{**VALID, "value": "high"}]), "row 0: value: found 'high'; allowed: a finite number"),
        (json.dumps([{**VALID, "value": float("nan")}]), "row 0: value: found nan"),
        (json.dumps([{**VALID, "seed": None}]), "row 0: seed: found None; allowed: a whole number"),
        (json.dumps([{**VALID, "model": ""}]), "row 0: model: found ''; allowed: a text that is not empty"),
    ],
)
@pytest.mark.parametrize("use", [read_results, lambda folder: append_results(folder, [ROW])], ids=["read", "append"])
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, content, message, use):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        use(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)
    assert (tmp_path / "results.json").read_text() == content


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"results\.json is missing: nothing has been evaluated there yet"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("inf")}, "value: found inf; allowed: a finite number"),
        ({"value": True}, "value: found True"),
        ({"seed": 1.5}, "seed: found 1.5; allowed: a whole number"),
        ({"protocol": ""}, "protocol: found ''; allowed: a text that is not empty"),
    ],
)
def test_a_row_that_json_would_change_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ROW, **change)


def test_runs_are_folders_and_files_and_a_row_that_is_there_twice_counts_once(tmp_path):
    other = dataclasses.replace(ROW, seed=1, value=0.5)
    append_results(tmp_path / "a", [ROW])
    append_results(tmp_path / "b", [ROW, other])
    (tmp_path / "copy.json").write_bytes((tmp_path / "b/results.json").read_bytes())
    assert read_runs([tmp_path / "a", tmp_path / "b", tmp_path / "copy.json", tmp_path / "a"]) == [ROW, other]


def test_two_values_of_one_thing_are_refused_with_both_places(tmp_path):
    append_results(tmp_path / "a", [ROW])
    append_results(tmp_path / "b", [dataclasses.replace(ROW, value=0.5)])
    message = (
        r"linear of student on digits, top-1 accuracy, seed 0: found 0.915 in .*a/results.json and 0.5 in .*b/results"
    )
    with pytest.raises(ArtifactError, match=message):
        read_runs([tmp_path / "a", tmp_path / "b"])


def test_a_run_without_a_row_is_refused(tmp_path):
    append_results(tmp_path, [])
    with pytest.raises(ArtifactError, match=r"results\.json has no rows: nothing has been evaluated there yet"):
        read_runs([tmp_path])
