"""The benchmarks that follow a training: which they are, what is refused before it, and real ones after it."""

import json
import os
import signal

import pytest
from benchmark_data import write_classes
from following import run_next
from suite import LINEAR, benchmarks, linear_on, transfer_on

from vissl_clusterfit.errors import ArtifactError, ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.runs.benchmark_suite import plan_suite
from vissl_clusterfit.report.results import read_results


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return write_classes(folder / "train", 24, 3, seed=1), write_classes(folder / "test", 12, 3, seed=2)


@pytest.fixture
def planned(student_overrides, tmp_path):
    def plan(*overrides: str):
        engine, _, config = compose([*student_overrides, f"config.CHECKPOINT.DIR={tmp_path / 'student'}", *overrides])
        return plan_suite(engine, config)

    return plan


def test_without_entries_there_is_nothing(planned):
    assert planned() == []
    assert planned("engine_name=clusterfit_label", benchmarks({"CONFIG": "clusterfit/transfer"})) == []


def test_every_checkpoint_is_measured_under_its_epoch_as_if_composed_alone(planned, data, tmp_path):
    """VISSL writes a checkpoint after the first epoch, then at the frequency, and at the end."""
    entry = linear_on(*data, NAME="linear")
    common = (benchmarks(entry), "config.OPTIMIZER.num_epochs=5", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=2")
    every = planned(*common, "config.CLUSTERFIT.BENCHMARKS.CHECKPOINTS=every")
    runs = [each.run for each in every]
    names = ["model_phase0.torch", "model_phase2.torch", "model_final_checkpoint_phase4.torch"]
    assert [run.weights for run in runs] == [f"{tmp_path}/student/{name}" for name in names]
    assert [run.model for run in runs] == [f"student, epoch {epoch}" for epoch in (1, 3, 5)]
    assert [run.folder.rpartition("/")[2] for run in runs] == ["epoch_1", "epoch_3", "epoch_5"]
    assert {each.engine for each in every} == {"train"}
    assert every[0].config == compose(list(runs[0].overrides))[2]
    assert every[0].config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 4  # the network of the training
    last = planned(*common, "config.CLUSTERFIT.BENCHMARKS.MODEL_NAME=mine")
    assert [each.run.model for each in last] == ["mine, epoch 5"]
    assert last[0].run.folder == runs[-1].folder


def test_another_request_has_another_folder_and_another_machine_the_same(planned, data, student_overrides):
    folders = [
        planned(benchmarks(linear_on(*data, *overrides)), *machine)[0].run.folder
        for overrides, machine in (
            ([], []),
            (["config.OPTIMIZER.weight_decay=0.1"], []),
            ([], ["config.DISTRIBUTED.NUM_PROC_PER_NODE=2"]),
        )
    ]
    assert folders[0] != folders[1]
    assert folders[0] == folders[2]


@pytest.mark.parametrize(
    ("entries", "more", "message"),
    [
        ([{"CONFIG": "clusterfit/transfr"}], [], r"RUN, transfr: .*no such config.*Did you mean .*clusterfit/transfer"),
        ([{"CONFIG": LINEAR, "OVERRIDES": ["config.OPTIMIZER.num_epoch=1"]}], [], r"linear: .*num_epoch.*num_epochs"),
        ([{"CONFIG": ""}], [], r"RUN\[0\]\.CONFIG: found nothing"),
        ([{"CONFG": LINEAR}], [], r"RUN\[0\]\.CONFG: found an unknown key.*Did you mean CONFIG"),
        (["clusterfit/transfer"], [], r"RUN\[0\]: found 'clusterfit/transfer'; allowed: a mapping"),
        ([{"CONFIG": LINEAR, "OVERRIDES": [{"a": 1}]}], [], r"OVERRIDES: found \{.*allowed: key=value"),
        ([{"CONFIG": LINEAR, "OVERRIDES": ["config.CHECKPOINT.DIR=x"]}], [], r"DIR=x; allowed: other keys"),
        ([{"CONFIG": LINEAR}, {"CONFIG": LINEAR}], [], r"found 2 benchmarks of the name eval_.*Add NAME"),
        ([{"CONFIG": LINEAR, "OVERRIDES": ["config.DISTRIBUTED.NUM_NODES=2"]}], [], "NUM_NODES: found 2 in .*SLURM"),
        ([{"CONFIG": LINEAR}], ["config.TEST_ONLY=true"], "TEST_ONLY=true, which trains nothing"),
        ([{"CONFIG": LINEAR}], ["config.CLUSTERFIT.BENCHMARKS.CHECKPOINTS=best"], "'best'; allowed: 'last' | 'every'"),
    ],
)
def test_a_mistake_is_told_before_the_training(planned, entries, more, message):
    with pytest.raises(ConfigError, match=message):
        planned(benchmarks(*entries), *more)


def test_what_was_measured_on_other_weights_is_not_taken_for_this(planned, data, tmp_path):
    run = planned(benchmarks(linear_on(*data)))[0].run
    (tmp_path / "student/model_final_checkpoint_phase0.torch").write_bytes(b"weights")
    run.begin()
    run.begin()
    with pytest.raises(ArtifactError, match="measures nothing"):
        run.finish()
    assert not run.is_finished
    (tmp_path / "student/model_final_checkpoint_phase0.torch").write_bytes(b"other weights")
    with pytest.raises(ArtifactError, match=r"was made again since\. Move the folder away"):
        run.begin()


@pytest.mark.slow
def test_one_that_fails_stops_no_other_and_a_suite_that_is_killed_resumes(
    start_command, student_overrides, student_run, data, tmp_path
):
    """Killed in the third benchmark, a training of VISSL's: the second is not run again, nor are its first epochs."""
    folder = tmp_path / "student"
    command = (
        *student_overrides,
        f"config.CLUSTERFIT.OUTPUT_DIR={student_run / 'clusterfit'}",
        benchmarks(
            transfer_on(tmp_path / "nowhere", data[1], NAME="wrong"),
            transfer_on(*data),
            linear_on(*data, "config.OPTIMIZER.num_epochs=6", NAME="linear"),
        ),
        f"config.CHECKPOINT.DIR={folder}",
    )
    process = start_command(*command, cwd=tmp_path)
    assert any("Starting phase 4 " in line for line in process.stdout), process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    [linear] = folder.glob("benchmarks/linear-*/epoch_1")
    assert not (linear / "results.json").exists()
    assert [row.benchmark for row in read_results(folder)] == ["linear", "knn"]
    (folder / "results.json").unlink()  # it is made of those of the benchmarks
    made = (linear / "model_phase0.torch").stat().st_mtime_ns

    process = start_command(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 2, errors
    assert "nowhere" in errors
    assert [line.split(" in ")[0] for line in said.splitlines()[-5:-1]] == [
        "3 benchmarks:",
        "  was finished before: transfer, epoch 1",
        "  finished: linear, epoch 1",
        "  FAILED with exit code 2: wrong, epoch 1",
    ]
    assert run_next(said)[0] == "table"
    assert "Starting phase 0 " not in said
    assert (linear / "model_phase0.torch").stat().st_mtime_ns == made
    rows = read_results(folder)
    assert [(row.model, row.benchmark) for row in rows] == [
        ("student, epoch 1", name) for name in ("linear", "knn", "linear, layer res5")
    ]
    last = json.loads((linear / "metrics.json").read_text().splitlines()[-1])
    assert rows[-1].value == pytest.approx(last["test_accuracy_list_meter"]["top_1"]["res5"] / 100)
