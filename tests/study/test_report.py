"""The report: intervals as scipy's, leads seed by seed, every figure in the CSV, and a plot."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vissl_clusterfit.report.intervals import student_interval
from vissl_clusterfit.report.results import ResultRow
from vissl_clusterfit.study.output import write_report
from vissl_clusterfit.study.plan import Score
from vissl_clusterfit.study.report import ALL_TARGETS, Report
from vissl_clusterfit.study.settings import StudySettings

VALUES = {  # by method and point: seeds 1, 2, 3 of each target
    ("pixels", "0 %"): {"case": [0.2], "letter": [0.3]},
    ("pixels", "50 %"): {"case": [0.2], "letter": [0.3]},
    ("teacher", "0 %"): {"case": [0.5, 0.6, 0.7], "letter": [0.1, 0.2, 0.3]},
    ("teacher", "50 %"): {"case": [0.4, 0.5, 0.6], "letter": [0.0, 0.1, 0.2]},
    ("student", "0 %"): {"case": [0.4, 0.7, 0.7], "letter": [0.1, 0.2, 0.3]},
    ("student", "50 %"): {"case": [0.51, 0.6, 0.69], "letter": [0.1, 0.2, 0.3]},
}


def scores():
    return [
        Score(
            method,
            point,
            target,
            ResultRow(method, "linear", target, "test", "top-1 accuracy", value, "protocol", seed),
        )
        for (method, point), targets in VALUES.items()
        for target, values in targets.items()
        for seed, value in enumerate(values, 1)
    ]


@pytest.fixture
def report():
    target = {"TRAIN": "/t", "TEST": "/s"}
    settings = StudySettings.from_config(
        {
            "NAME": "Noise",
            "AXIS": "share",
            "POINTS": [0.0, 0.5],
            "PERCENT": True,
            "METHODS": {"pixels": {"ONCE": True}, "teacher": {}, "student": {}},
            "TARGETS": {"case": target, "letter": target},
        }
    )
    information = {"teacher": {"0 %": [1.0, 1.0, 1.0], "50 %": [0.31, 0.32, 0.33]}}
    return Report(settings, scores(), {"teacher": {"0 %": 0.1, "50 %": 0.1}}, information)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
def test_the_interval_is_students(num_seeds):
    values = np.random.default_rng(num_seeds).normal(size=num_seeds)
    interval = student_interval(list(values))
    low, high = stats.t.interval(0.95, num_seeds - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose([interval.mean - interval.half_width, interval.mean + interval.half_width], [low, high])


def test_one_seed_has_no_interval_and_decides_nothing():
    interval = student_interval([0.5])
    assert np.isnan(interval.half_width)
    assert not interval.excludes_zero


def test_a_lead_is_taken_seed_by_seed(report):
    """The accuracies spread by 10 points, the differences by one."""
    lead = report.lead("linear", "case", "student", "50 %")
    expected = student_interval([0.11, 0.1, 0.09])
    assert (lead.mean, lead.half_width) == pytest.approx((expected.mean, expected.half_width))
    assert lead.excludes_zero
    assert not report.lead("linear", "case", "student", "0 %").excludes_zero


def test_what_has_one_figure_for_all_seeds_is_compared_with_each(report):
    lead = report.lead("linear", "letter", "pixels", "0 %")
    assert lead.mean == pytest.approx(0.3 - 0.2)
    assert lead.half_width == pytest.approx(student_interval([0.1, 0.2, 0.3]).half_width)


def test_all_targets_are_the_mean_of_each_seed(report):
    assert report.values("linear", ALL_TARGETS, "teacher", "50 %") == pytest.approx({1: 0.2, 2: 0.3, 3: 0.4})


def test_the_tables(report):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.markdown().splitlines()]
    assert ["share", "0 %", "50 %"] in lines
    assert ["teacher", "60.0 ± 24.8", "50.0 ± 24.8"] in lines
    assert ["student", "+0.0 ± 24.8", "**+10.0 ± 2.5**"] in lines
    assert ["pixels", "20.0", "20.0"] in lines
    assert ["teacher", "100.0 ± 0.0", "32.0 ± 2.5"] in lines


def test_every_figure_is_in_the_csv_to_the_last_digit(report):
    rows = list(csv.DictReader(io.StringIO(report.csv())))
    assert len(rows) == len(scores()) == 28
    found = [
        float(row["value"])
        for row in rows
        if (row["method"], row["point"], row["target"]) == ("student", "50 %", "case")
    ]
    assert found == [0.51, 0.6, 0.69]


def test_the_files_and_a_plot_of_a_panel_per_target(report, tmp_path):
    files = write_report(tmp_path, report, report.markdown())
    assert sorted(file.name for file in files) == ["study.csv", "study.md", "study.png"]
    with Image.open(tmp_path / "study.png") as plot:
        assert plot.width > 2.5 * plot.height
        assert len(np.unique(np.asarray(plot.convert("L")))) > 10
    before = (tmp_path / "study.png").read_bytes()
    write_report(tmp_path, report, report.markdown())
    assert (tmp_path / "study.png").read_bytes() == before


def test_the_legend_is_whole_however_many_methods_there_are(report, tmp_path):
    """With one panel and six methods of long names, one row of them would be twice as wide as the figure."""
    names = [f"a method with the number {number}" for number in range(6)]
    settings = dataclasses.replace(
        report.settings,
        methods=dict.fromkeys(names, report.settings.methods["teacher"]),
        targets={"case": report.settings.targets["case"]},
        baseline=names[0],
    )
    row = ResultRow("m", "linear", "case", "test", "top-1 accuracy", 0.5, "protocol", 1)
    scores = [Score(name, point, "case", row) for name in names for point in ("0 %", "50 %")]
    lone = Report(settings, scores, {}, {})
    write_report(tmp_path, lone, lone.markdown())
    with Image.open(tmp_path / "study.png") as plot:
        pixels = np.asarray(plot.convert("L"))
    assert (pixels[:, [0, 1, -2, -1]] == 255).all()
