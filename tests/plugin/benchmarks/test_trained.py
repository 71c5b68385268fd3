"""Rows of VISSL's trainings, from the ``metrics.json`` that VISSL leaves."""

import json

import pytest
from suite import LINEAR

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.benchmarks.trained import add_trained_rows
from vissl_clusterfit.report.results import read_results


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    weights = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=runs/student/final.torch"
    return compose([f"config={LINEAR}", "config.MACHINE.DEVICE=cpu", weights, f"config.CHECKPOINT.DIR={folder}"])[2]


def write_metrics(folder, *lines):
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def after_phase(phase, epoch, metric, **values):
    return {"phase_idx": phase, "train_phase_idx": epoch, f"test_{metric}_list_meter": values}


def test_the_last_figure_is_reported_and_not_the_best(linear, tmp_path):
    write_metrics(
        tmp_path,
        {"phase_idx": 0, "train_phase_idx": 0, "train_accuracy_list_meter": {"top_1": {"res5": 99.0}}},
        after_phase(1, 0, "accuracy", top_1={"res4": 70.0, "res5": 80.0}),
        after_phase(3, 1, "accuracy", top_1={"res4": 60.0, "res5": [50.0, 51.5]}),
    )
    add_trained_rows(linear, str(tmp_path))
    rows = read_results(tmp_path)
    assert {row.benchmark: row.value for row in rows} == {
        "linear, layer res4": 0.6,
        "linear, layer res5, 0": 0.5,
        "linear, layer res5, 1": 0.515,
    }
    assert {(row.metric, row.model, row.dataset, row.seed) for row in rows} == {
        ("top-1 accuracy", "student/final.torch", "imagenet1k_folder", 1)
    }
    protocol = rows[0].protocol
    for part in (
        "heads on the frozen trunk",
        '["res5",["AvgPool2d",[[6,6],1,0]]]',
        "batches of 32 in 8 processes",
        "weight decay 0.0005",
        'lr multistep {"values":[0.01,0.001,0.0001,1e-05],"milestones":[8,16,24]}',
        '"CenterCrop"',
        "the score after epoch 2 of 28, the last that was tested, which is not chosen",
    ):
        assert part in protocol


def test_mean_average_precision_without_that_of_each_class(linear, tmp_path):
    write_metrics(tmp_path, after_phase(1, 0, "mean_ap", mAP={"0": 40.0}, AP={"0": [30.0, 50.0]}))
    add_trained_rows(linear, str(tmp_path))
    assert [(row.benchmark, row.metric, row.value) for row in read_results(tmp_path)] == [
        ("linear, output 0", "mAP", 0.4)
    ]


def test_without_a_test_phase_there_is_nothing_to_report(linear, tmp_path):
    write_metrics(tmp_path, {"phase_idx": 0, "train_phase_idx": 0, "train_accuracy_list_meter": {}})
    with pytest.raises(ArtifactError, match=r"no score of a test phase: set config\.TEST_MODEL=true"):
        add_trained_rows(linear, str(tmp_path))


def test_a_training_that_is_no_benchmark_has_no_rows(linear, tmp_path):
    plain = type(linear)({key: value for key, value in linear.items() if key != "BENCHMARK"})
    write_metrics(tmp_path, after_phase(1, 0, "accuracy", top_1={"res5": 80.0}))
    add_trained_rows(plain, str(tmp_path))
    assert not (tmp_path / "results.json").exists()
