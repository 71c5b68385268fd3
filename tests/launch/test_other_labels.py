"""Labels of other data, settings or teachers: one message, exit code 2, and they stay as they are."""

import shutil

import pytest
import torch
from checkpoint_parts import trunk_of
from refusals import BEFORE_A_STEP, require_refusal
from tiny import write_images
from tiny_store import contents


@pytest.fixture
def refuse_second(tmp_path, student_run, run_command, student_overrides):
    """Trains on the artefacts of an earlier run with something changed; they must stay as they are."""

    def run(*change: str):
        folder = tmp_path / "run"
        shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
        before = contents(folder / "clusterfit")
        result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *change, cwd=tmp_path)
        assert contents(folder / "clusterfit") == before
        assert {path.name for path in folder.iterdir()} <= {*BEFORE_A_STEP, "clusterfit"}
        return result

    return run


def test_labels_of_other_data_are_refused(refuse_second, tmp_path):
    images = write_images(tmp_path / "images", 31)
    require_refusal(
        refuse_second(f"config.DATA.TRAIN.DATA_PATHS=[{images}]"),
        "labels/train was made for other data: 21 of 31 samples differ (it has 30).",
        f"sample 10 is now '{images / 'class0/00030.png'}'",
    )


def test_labels_of_the_same_number_of_other_images_are_refused(refuse_second, tmp_path):
    images = write_images(tmp_path / "images", 30, seed=1)
    result = refuse_second(f"config.DATA.TRAIN.DATA_PATHS=[{images}]")
    require_refusal(result, "labels/train was made for other data:", "of 30 samples differ")


@pytest.mark.parametrize(
    "change, difference",
    [
        ("NUM_CLUSTERS=5", "codebook.settings.num_clusters: it was made with 4, this run has 5"),
        ("SEED=1", "codebook.settings.seed: it was made with 0, this run has 1"),
        ("FEATURES.POOLING=max", 'features.teacher.pooling: it was made with "avg", this run has "max"'),
    ],
)
def test_labels_of_other_settings_are_refused(refuse_second, change, difference):
    require_refusal(refuse_second(f"config.CLUSTERFIT.{change}"), difference)


def test_labels_of_another_teacher_are_refused(refuse_second, tmp_path, teacher):
    checkpoint = torch.load(teacher)
    trunk_of(checkpoint)["_feature_blocks.conv1.weight"] *= 2
    torch.save(checkpoint, tmp_path / "other.torch")
    result = refuse_second(f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'other.torch'}")
    require_refusal(result, "features.teacher.weights_sha256: it was made with")
