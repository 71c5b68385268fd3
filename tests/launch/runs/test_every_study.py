"""Every study on every kind of data: it composes, and a reduced one trains its methods, scores them and reports.

Each study trains every method on one kind of data. On the others it trains those that have settings of the kind or read
other files; the trainings of the rest, which differ from these by the targets or the length alone, are composed.
"""

import csv
from pathlib import Path

import pytest
import torch
from icon_themes import write_themes
from tiny import write_images
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.commands.main import main
from vissl_clusterfit.datasets.icons import prepare_icons
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.study.plan import StudyPlan, StudyRun
from vissl_clusterfit.study.settings import StudySettings

TARGETS = (
    *("study.top_l=2", "study.num_nearest=3", "study.perplexity=1.5"),
    *("study.also=[3,2]", "study.soft_also=[4,2]", "study.also_perplexity=[1.5,1.2]"),
)
STUDIES = {  # with as few points as say something
    "label_noise": ["config.STUDY.POINTS=[0.5]"],
    "num_clusters": ["config.STUDY.POINTS=[3,5]"],
    "capacity": ["study.widths=['[4,8,16]','[16,32,64]']"],
    "multitask": [],
    "own_teacher": [*TARGETS],
    "targets": ["config.STUDY.POINTS=[0.5]", "study.more=0.25", *TARGETS],
}
DATA = ("digits", "characters", "images", "icons")
ALL_ON = dict.fromkeys(STUDIES, "digits") | {"own_teacher": "images"}
FEWER = {  # on the other kinds of data
    "label_noise": ["config.STUDY.LEAVE_OUT=[raw_pixels,untrained,teacher_twice,distillation]"],
    "num_clusters": ["config.STUDY.POINTS=[5]"],
    "capacity": ["study.widths=['[4,8,16]']"],
    "multitask": [],
    "own_teacher": ["config.STUDY.LEAVE_OUT=[top_l,soft,nested,soft_nested]"],
    "targets": [
        "config.STUDY.LEAVE_OUT=[teacher_twice,top_l,soft,nested,soft_nested,"
        "distillation_more,top_l_more,soft_more,nested_more,soft_nested_more]"
    ],
}
CPU = "config.MACHINE.DEVICE=cpu"
SMALL = (
    "config.STUDY.SEEDS=[1]",
    "config.STUDY.TUNING.VALUES=[0.1]",
    "config.STUDY.TUNING.POINT=''",
    "config.OPTIMIZER.num_epochs=1",
    "config.CLUSTERFIT.NUM_CLUSTERS=5",
    "config.CLUSTERFIT.EXPORT=false",
    *(f"config.STUDY.PICTURES.{split}=160" for split in ("PRETRAIN", "TRAIN", "VALIDATION", "TEST")),
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
    "config.TRANSFER.LINEAR.C_GRID=[1.0]",
)
_SMALL_IMAGE = "{name:Resize,size:[32,32]},{name:ToTensor}"
SMALL_IMAGES = (
    "study.num_classes=3",
    f"study.train_transforms=[{_SMALL_IMAGE}]",
    f"study.transforms=[{_SMALL_IMAGE}]",
    f"study.rotated=[{{name:ImgRotatePil}},{_SMALL_IMAGE}]",
    "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    CPU,
    "config.STUDY.NUM_PARALLEL=2",
    "config.STUDY.NUM_THREADS=1",
)


def command(study: str, data: str, folder: Path, *given: str) -> list[str]:
    config = [f"config=clusterfit/study/{study}", f"config/clusterfit/study/data={data}"]
    return [*config, f"study.folder={folder}", *given]


def folders(data: str, place: Path) -> list[str]:
    """Names of class folders for a study on one's own images; none where they are drawn."""
    if data == "icons":
        return [f"study.icons={place / 'icons'}", "study.num_classes=2"]
    if data != "images":
        return []
    splits = ("pretrain", "train", "validation", "test", "unlabelled")
    return [f"study.{split}={place / split}" for split in splits]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("study", STUDIES)
def test_its_runs_are_known_before_the_first(study, data, tmp_path):
    teacher = ["study.teacher=t.torch"] if study == "own_teacher" else []
    config = compose(command(study, data, tmp_path / "study", *folders(data, tmp_path), *teacher, CPU))[2]
    settings = StudySettings.from_config(config.STUDY)
    plan = StudyPlan(settings, tmp_path, 30, is_finished=lambda run: False, rows=lambda run: [])
    trained = [name for name, method in settings.methods.items() if method.epochs and not method.weights]
    trainings = [run for run in plan.runs() if run.num_epochs]
    # A teacher that does not depend on the point is one training for all; every other method has one at each.
    least, most = (len(settings.seeds) * times for times in (len(trained), len(trained) * len(settings.points)))
    tuned = len(settings.tuning.values) * len(settings.points) * len(trained)
    assert least <= len(trainings) <= most + tuned
    assert all(key.isidentifier() for key in settings.methods)


@pytest.mark.parametrize("kind", ["digits", "characters"])
def test_more_pictures_are_as_many_times_more_and_seen_as_many_times_less(kind, tmp_path):
    """As many steps for all, but for what is rounded to whole epochs."""
    config = compose(command("targets", kind, tmp_path, CPU, "study.more=8"))[2]
    settings = StudySettings.from_config(config.STUDY)
    assert (settings.pictures.pretrain, settings.pictures.unlabelled) == (2000, 16000)
    plan = StudyPlan(
        settings, tmp_path, config.OPTIMIZER.num_epochs, is_finished=lambda run: False, rows=lambda run: []
    )
    epochs = {
        run.folder.relative_to(tmp_path / "runs").parts[0]: run.num_epochs for run in plan.runs() if run.num_epochs
    }
    of_more = {epochs[name] for name in epochs if name.endswith("8_x_pictures")}
    assert of_more == {max(1, round(config.OPTIMIZER.num_epochs / 8))}


@pytest.fixture
def images(tmp_path):
    prepare_icons(write_themes(tmp_path / "themes"), tmp_path / "icons")
    for number, split in enumerate(("pretrain", "train", "validation", "test", "unlabelled")):
        write_images(tmp_path / split, 24, seed=number)


def untrained_teacher(study: list[str], place: Path) -> Path:
    config = compose([*study, "study.teacher=none"])[2]
    torch.manual_seed(0)
    torch.save(build_model(AttrDict(config.MODEL), AttrDict(config.OPTIMIZER)).trunk.state_dict(), place)
    return place


# Icons differ from the drawn pictures in where they are: the largest study says that they are found.
REDUCED = [*((study, data) for study in STUDIES for data in DATA if data != "icons"), ("targets", "icons")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "data"),
    [(study, data) for study, data in REDUCED if data != ALL_ON[study] and "LEAVE_OUT" in str(FEWER[study])],
)
def test_what_is_left_out_of_a_reduced_one_composes(study, data, tmp_path):
    whole = command(study, data, tmp_path / "study", *folders(data, tmp_path), CPU, *STUDIES[study])
    if study == "own_teacher":
        whole.append("study.teacher=t.torch")

    def settings(*more: str) -> StudySettings:
        return StudySettings.from_config(compose([*whole, *more])[2].STUDY)

    def trainings(of: StudySettings) -> dict[Path, StudyRun]:
        found = StudyPlan(of, tmp_path, 2, is_finished=lambda run: False, rows=lambda run: []).runs()
        return {run.folder: run for run in found if run.num_epochs}

    once = ("config.STUDY.SEEDS=[1]", "config.STUDY.TUNING.VALUES=[0.1]", "config.STUDY.TUNING.POINT=''")
    every, fewer = settings(*once), settings(*once, *FEWER[study])
    left_out = [run for folder, run in trainings(every).items() if folder not in trainings(fewer)]
    assert len(left_out) == sum(bool(every.methods[name].epochs) for name in {*every.methods} - {*fewer.methods})
    for run in left_out:
        engine, _, config = compose([*whole, *run.overrides, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])
        assert (engine, config.OPTIMIZER.num_epochs) == ("train", run.num_epochs)


@pytest.mark.slow
@pytest.mark.parametrize(("study", "data"), REDUCED)
def test_a_reduced_one_reports(study, data, start_command, images, tmp_path, capsys):
    given = [*folders(data, tmp_path), *(SMALL_IMAGES if data == "images" else ()), *SMALL, *STUDIES[study]]
    if data != ALL_ON[study]:
        given += FEWER[study]
    if study == "capacity" and data == "images":
        given.append("study.widths=[4]")
    whole = command(study, data, tmp_path / "study", *given)
    if study == "own_teacher":
        whole.append(f"study.teacher={untrained_teacher(whole, tmp_path / 'teacher.torch')}")
    process = start_command(*whole, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    settings = StudySettings.from_config(compose(whole)[2].STUDY)
    with (tmp_path / "study/study.csv").open(newline="") as file:
        found = {(line["method"], line["point"]) for line in csv.DictReader(file)}
    names = [settings.shown_name(method) for method in settings.methods]
    assert found == {(name, point) for name in names for point in settings.named_points}
    assert main(["table", str(tmp_path / "study")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert all(any(row.startswith(f"| {name} ") for row in rows) for name in names)
    assert "This study has " in said
    assert " left  " in said
