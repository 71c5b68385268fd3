"""The answer of a study: the student that validation data choose, its leads with intervals, and what it cost."""

import pytest

from vissl_clusterfit.report.results import ResultRow
from vissl_clusterfit.study.answer import answer, mean_costs
from vissl_clusterfit.study.plan import Score
from vissl_clusterfit.study.report import Report
from vissl_clusterfit.study.settings import StudySettings

VALUES = {"teacher": [0.50, 0.60, 0.55], "distillation": [0.51, 0.61, 0.56], "hard": [0.5, 0.6, 0.54], "soft": []}
VALIDATED = {"hard": 0.61, "soft": 0.63}
COSTS = {"hard": {"core_hours": 1.5, "gpu_hours": 0.0}, "soft": {"core_hours": 1.25, "gpu_hours": 0.5}}


def a_report(soft, candidates=("hard", "soft"), points=(0.5,)):
    methods = {"teacher": {}, "distillation": {}, "hard": {"NAME": "ClusterFit, hard"}, "soft": {"NAME": "soft ones"}}
    block = {"AXIS": "share", "POINTS": [*points], "PERCENT": True, "METHODS": methods, "CANDIDATES": [*candidates]}
    settings = StudySettings.from_config({**block, "TARGETS": {"case": {"TRAIN": "/t", "TEST": "/s"}}})
    scores = [
        Score(name, point, "case", ResultRow(name, "linear", "case", "test", "top-1 accuracy", value, "protocol", seed))
        for name, values in {**VALUES, "soft": soft}.items()
        for point in settings.named_points
        for seed, value in enumerate(values, 1)
    ]
    return Report(settings, scores, {}, {})


@pytest.mark.parametrize(
    ("soft", "said"),
    [
        ([0.53, 0.63, 0.581], "- **Yes**: soft ones is ahead of teacher by **+3.0 ± 0.1** points."),
        ([0.48, 0.58, 0.529], "- **No**: soft ones is behind teacher, by **-2.0 ± 0.1** points."),
        ([0.50, 0.64, 0.56], "- **Not shown**: soft ones is +1.7 ± 5.2 points from teacher, which chance can do."),
    ],
)
def test_the_verdict_is_that_of_the_student_that_validation_chose(soft, said):
    text = "\n\n".join(answer(a_report(soft), VALIDATED, COSTS))
    assert text.startswith("## Does it help?")
    assert said in text
    assert "soft ones is the student with the best linear probe on the validation data" in text
    other = "\n\n".join(answer(a_report(soft), {"hard": 0.64, "soft": 0.63}, COSTS))
    assert "ClusterFit, hard is the student with the best" in other


def test_leads_over_all_that_is_no_student_and_costs_are_beside_it():
    parts = answer(a_report([0.53, 0.63, 0.581]), VALIDATED, COSTS)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in "\n".join(parts).splitlines() if "|" in line]
    assert ["teacher", "**+3.0 ± 0.1**"] in cells
    assert ["distillation", "**+2.0 ± 0.1**"] in cells
    assert ["ClusterFit, hard", "61.0", "-0.3 ± 1.4", "1.5", "0"] in cells
    assert ["soft ones", "63.0", "**+3.0 ± 0.1**", "1.25", "0.5"] in cells


def test_each_point_has_its_verdict():
    text = "\n".join(answer(a_report([0.53, 0.63, 0.581], points=(0.25, 0.5)), VALIDATED, {}))
    assert "- **Yes** at share 25 %: soft ones" in text
    assert "- **Yes** at share 50 %: soft ones" in text


def test_without_validation_nothing_is_chosen_by_the_test_data():
    text = "\n".join(answer(a_report([0.53, 0.63, 0.581]), {}, {}))
    assert "no score on validation data says which of the students to take" in text
    assert "Yes" not in text
    [alone] = [line for line in answer(a_report([0.53, 0.63, 0.581], ["soft"]), {}, {}) if "Yes" in line]
    assert "soft ones is ahead of teacher" in alone


def test_a_study_without_candidates_has_no_answer():
    assert answer(a_report([0.53, 0.63, 0.581], []), VALIDATED, COSTS) == []


def test_the_mean_cost_is_that_of_all_stages_of_runs_that_say_it():
    train = {"hours": 1.0, "core_hours": 2.0, "gpu_hours": 1.0}
    runs = {"hard": [{"train": train, "extract": {**train, "core_hours": 1.0}}, {"train": train}, {}], "soft": [{}]}
    assert mean_costs(runs) == {"hard": {"core_hours": 2.5, "gpu_hours": 1.5}}
