"""The plan of a study: which runs it has, what each waits for, and what they are given."""

from pathlib import Path

import pytest

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.report.results import ResultRow
from vissl_clusterfit.study.plan import StudyPlan
from vissl_clusterfit.study.settings import StudySettings

STUDY = {
    "AXIS": "noise",
    "POINTS": [0.0, 0.5],
    "PERCENT": True,
    "WRONG_LABELS": "<point>",
    "SEEDS": [1, 2],
    "METHODS": {
        "untrained": {"EPOCHS": 0.0, "ONCE": True},
        "teacher": {"LABELLED": True, "NETWORK": ["wide=<seed>"]},
        "student": {"AFTER": ["teacher"], "EPOCHS": 2.0, "TRAINING": ["from=<weights 1>", "beside=<run 1>"]},
    },
    "TARGETS": {
        "case": {"TRAIN": "/t", "VALIDATION": "/v", "TEST": "/s", "LABELS": "case"},
        "own": {"TRAIN": "/a", "VALIDATION": "/b", "TEST": "/c"},
    },
    "TUNING": {"KEY": "lr", "VALUES": [0.1, 0.2], "SEED": 0},
}


class Machine:
    """Runs what is ready, as if it took no time; the value 0.2 is the better one for teachers without wrong labels."""

    def __init__(self, **changes) -> None:
        self.settings = StudySettings.from_config({**STUDY, **changes})
        self.done = {}
        self.plan = StudyPlan(
            self.settings, Path("/study"), 10, is_finished=lambda run: run.folder in self.done, rows=self.rows
        )

    def rows(self, run):
        better = "teacher/0__" in str(run.folder) and "value=0.2" in str(run.folder)
        common = {"split": "test", "metric": "top-1 accuracy", "protocol": "p", "dataset": "d", "model": "m"}
        seed = next((int(part[5]) for part in run.folder.parts if part.startswith("seed=")), 0)
        return [
            ResultRow(benchmark="linear", value=0.9 if better else 0.5, seed=seed, **common),
            ResultRow(benchmark="knn", value=0.1, seed=seed, **common),
        ]

    def run_all(self) -> list[list[str]]:
        """The runs in the order of waves, by their folders."""
        waves = []
        while ready := self.plan.ready():
            waves.append([str(run.folder.relative_to("/study/runs")) for run in ready])
            self.done.update((run.folder, run) for run in ready)
        return waves


def test_teachers_are_tuned_before_they_teach_and_students_are_tuned_on_the_chosen_one():
    machine = Machine()
    waves = machine.run_all()
    assert waves[0] == [
        *(f"untrained/all/seed=1/test_{target}" for target in ("case", "own")),
        *(f"teacher/{at}/seed=0,value={value}/training" for at in ("0__", "50__") for value in (0.1, 0.2)),
    ]
    assert all("/validation_" in name for name in waves[1])
    assert waves[2] == [
        "teacher/0__/seed=1,value=0.2/training",
        "teacher/0__/seed=2,value=0.2/training",
        "teacher/50__/seed=1,value=0.1/training",
        "teacher/50__/seed=2,value=0.1/training",
        *(f"student/{at}/seed=0,value={value}/training" for at in ("0__", "50__") for value in (0.1, 0.2)),
    ]
    assert machine.plan.choices() == {"teacher": {"0 %": 0.2, "50 %": 0.1}, "student": {"0 %": 0.1, "50 %": 0.1}}


def test_a_value_is_chosen_at_one_point_for_all():
    machine = Machine(TUNING={**STUDY["TUNING"], "POINT": "0 %"})
    names = [name for wave in machine.run_all() for name in wave]
    assert {name.split("/")[1] for name in names if "seed=0" in name} == {"0__"}
    assert machine.plan.choices()["teacher"] == {"0 %": 0.2, "50 %": 0.2}
    assert "teacher/50__/seed=1,value=0.2/training" in names
    assert "teacher/50__/seed=1,value=0.1/training" not in names


def test_no_run_is_there_twice_and_the_test_data_decide_nothing():
    machine = Machine()
    waves = machine.run_all()
    names = [name for wave in waves for name in wave]
    assert len(names) == len({*names})
    seeds_of_tests = {name.split("seed=")[1][0] for name in names if "/test_" in name}
    assert seeds_of_tests == {"1", "2"}
    assert {name.split("seed=")[1][0] for name in names if "/validation_" in name} == {"0"}
    # 2 points x 2 seeds x 2 methods, and the untrained network at each point; 2 targets; 2 benchmarks
    assert len(list(machine.plan.scores())) == (2 * 2 * 2 + 2) * 2 * 2


def test_what_a_training_is_given():
    machine = Machine()
    machine.run_all()
    folder = Path("/study/runs/student/50__/seed=2,value=0.1/training")
    assert machine.done[folder].overrides == (
        "engine_name=train",
        "config.OPTIMIZER.num_epochs=20",
        "from='/study/runs/teacher/50__/seed=2,value=0.1/training/checkpoint.torch'",
        "beside=/study/runs/teacher/50__/seed=2,value=0.1/training",
        "lr=0.1",
        "config.SEED_VALUE=2",
        "config.CLUSTERFIT.SEED=2",
    )
    teacher = machine.done[Path("/study/runs/teacher/50__/seed=2,value=0.1/training")].overrides
    assert teacher[1:3] == ("wide=2", "config.OPTIMIZER.num_epochs=10")
    assert "config.DATA.TRAIN.LABEL_PATHS=['/study/labels/wrong=0.5,seed=2.npy']" in teacher


def test_what_an_evaluation_is_given():
    machine = Machine()
    machine.run_all()
    place = Path("/study/runs/teacher/0__/seed=1,value=0.2")
    case = machine.done[place / "test_case"].overrides
    assert "config.DATA.TRAIN.LABEL_PATHS=['/t.case.npy']" in case
    assert "config.DATA.TEST.LABEL_SOURCES=[disk_filelist]" in case
    assert f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE='{place}/training/checkpoint.torch'" in case
    own = machine.done[place / "test_own"].overrides
    assert "config.DATA.TEST.DATA_PATHS=['/c']" in own
    assert "config.DATA.TEST.LABEL_SOURCES=[disk_folder]" in own
    tuned = machine.done[Path("/study/runs/teacher/0__/seed=0,value=0.1/validation_own")].overrides
    assert "config.DATA.TEST.DATA_PATHS=['/b']" in tuned


def test_a_teacher_that_does_not_depend_on_the_point_is_one_run_for_all():
    methods = {**STUDY["METHODS"], "student": {"AFTER": ["teacher"], "TRAINING": ["k=<point>"]}}
    names = [name for wave in Machine(METHODS=methods, WRONG_LABELS="0.5").run_all() for name in wave]
    trainings = [name for name in names if name.endswith("training")]
    assert [name for name in trainings if name.startswith("teacher")] == [
        "teacher/all/seed=0,value=0.1/training",
        "teacher/all/seed=0,value=0.2/training",
        "teacher/all/seed=1,value=0.1/training",
        "teacher/all/seed=2,value=0.1/training",
    ]
    assert len([name for name in trainings if name.startswith("student")]) == 2 * (2 + 2)


def test_a_teacher_that_is_there_is_not_trained():
    methods = {**STUDY["METHODS"], "teacher": {"WEIGHTS": "/own/teacher.torch", "ONCE": True}}
    machine = Machine(METHODS=methods)
    names = [name for wave in machine.run_all() for name in wave]
    assert [name for name in names if name.startswith("teacher")] == [
        f"teacher/all/given/test_{t}" for t in ("case", "own")
    ]
    students = [run for folder, run in machine.done.items() if "student" in str(folder) and folder.name == "training"]
    assert all("from='/own/teacher.torch'" in run.overrides for run in students)


def test_nothing_is_tuned_with_one_value():
    names = [name for wave in Machine(TUNING={"KEY": "lr", "VALUES": [0.1]}).run_all() for name in wave]
    assert not [name for name in names if "validation" in name or "seed=0" in name]


@pytest.mark.parametrize(
    "changes",
    [{}, {"TUNING": {**STUDY["TUNING"], "POINT": "50 %"}}, {"TUNING": {"KEY": "lr", "VALUES": [0.1]}}, {"SEEDS": [5]}],
)
def test_all_runs_and_their_epochs_are_known_before_any_is_done(changes):
    machine = Machine(**changes)
    runs = machine.plan.runs()
    assert machine.done == {}
    assert len(runs) == sum(map(len, machine.run_all())) == len(machine.plan.runs())
    epochs = [run.num_epochs for run in machine.done.values()]
    assert sorted(epochs) == sorted(run.num_epochs for run in runs)
    assert {*epochs} == {0, 10, 20}


def test_a_method_is_called_by_its_name_in_folders_and_by_its_key_in_overrides():
    methods = {**STUDY["METHODS"], "student": {**STUDY["METHODS"]["student"], "NAME": "a student, of it"}}
    machine = Machine(METHODS=methods)
    machine.run_all()
    run = machine.done[Path("/study/runs/a_student__of_it/0__/seed=1,value=0.1/test_own")]
    assert "config.TRANSFER.MODEL_NAME='a student, of it (noise 0 %)'" in run.overrides


def test_what_is_left_out_is_not_run():
    names = [name for wave in Machine(LEAVE_OUT=["untrained", "student"]).run_all() for name in wave]
    assert {name.partition("/")[0] for name in names} == {"teacher"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SEEDS": [0, 1]}, r"SEEDS: found \[0, 1\]; allowed: different whole numbers, none of them TUNING.SEED"),
        ({"SEEDS": [1, 1]}, "SEEDS: found"),
        ({"METHODS": {"a": {"AFTER": ["b"]}, "b": {}}, "BASELINE": "b"}, r"METHODS.a.AFTER: found \['b'\]"),
        ({"BASELINE": "techer"}, "BASELINE: found 'techer'; allowed: untrained | teacher | student"),
        ({"WRONG_LABELS": "2"}, "WRONG_LABELS: found 2, at the point 0 %; allowed: a share of 0 to 1"),
        ({"WRONG_LABELS": "many"}, "WRONG_LABELS: found many"),
        ({"POINTS": []}, "POINTS: found nothing"),
        ({"LEAVE_OUT": ["studnet"]}, r"LEAVE_OUT: found \['studnet'\]; allowed: some of untrained, teacher, student"),
        ({"LEAVE_OUT": ["teacher"]}, "LEAVE_OUT: found teacher, which student comes after"),
        ({"LEAVE_OUT": ["teacher", "student"]}, "BASELINE: found 'teacher'; allowed: untrained"),
        ({"METHODS": {"teacher": {}, "other": {"NAME": "teacher"}}}, "METHODS: found 'teacher' as NAME of two"),
        (
            {"TUNING": {**STUDY["TUNING"], "POINT": "25 %"}},
            "TUNING.POINT: found '25 %'; allowed: '0 %' | '50 %', or '' for every point by itself",
        ),
        ({"TARGETS": {"own": {"TRAIN": "/a", "TEST": "/c"}}}, "TARGETS.own: found no VALIDATION.*TUNING.VALUES"),
        ({"TARGETS": {"own": {"TRIAN": "/a"}}}, "TARGETS.own.TRIAN: found an unknown key.*Did you mean TRAIN"),
        ({"METHODS": {"teacher": {"EPOCHS": -1.0}}}, "METHODS.teacher.EPOCHS: found -1.0; allowed: at least 0.0"),
    ],
)
def test_a_mistake_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        StudySettings.from_config({**STUDY, **changes})


@pytest.mark.parametrize("point", ["", "0 %"])
def test_the_validation_score_is_that_of_the_chosen_value(point):
    machine = Machine(TUNING={**STUDY["TUNING"], "POINT": point})
    assert machine.plan.validated() == {}
    machine.run_all()
    # The value 0.2 is better, 0.9 instead of 0.5, for the teacher at 0 % alone; nothing else is tuned by it.
    assert machine.plan.validated() == pytest.approx({"teacher": 0.9 if point else (0.9 + 0.5) / 2, "student": 0.5})


def test_candidates_are_methods_of_the_study():
    with pytest.raises(ConfigError, match=r"STUDY\.CANDIDATES: found \['other'\]; allowed: some of untrained, teacher"):
        Machine(CANDIDATES=["other"])
