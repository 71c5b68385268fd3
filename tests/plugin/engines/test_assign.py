"""A codebook that labels new data: by the real command, with nothing but the codebook, its teacher and the data."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from checkpoint_parts import trunk_of
from following import run_next
from tiny import write_images

from vissl_clusterfit.labels.pseudo_labels import PseudoLabels


@pytest.fixture(scope="module")
def codebook(student_overrides, run_command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    overrides = [*student_overrides, f"config.CHECKPOINT.DIR={folder}", "engine_name=clusterfit_label"]
    result = run_command(*overrides, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "clusterfit" / "codebook"


def assign(run_command, codebook, weights, images, folder, *more):
    return run_command(
        "config=clusterfit/assign",
        f"config.CLUSTERFIT.ASSIGN.CODEBOOK={codebook}",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={weights}",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.CHECKPOINT.DIR={folder}",
        "config.MACHINE.DEVICE=cpu",
        *more,
        cwd=folder.parent,
    )


@pytest.mark.slow
def test_the_same_images_get_the_same_labels(run_command, codebook, teacher, images, tmp_path):
    result = assign(run_command, codebook, teacher, images, tmp_path / "new")
    assert result.returncode == 0, result.stderr
    first = PseudoLabels.open(codebook.parent / "labels/train")
    again = PseudoLabels.open(tmp_path / "new/clusterfit/labels/train")
    np.testing.assert_array_equal(again.labels, first.labels)
    np.testing.assert_allclose(again.distances, first.distances, atol=1e-6)
    assert (again.margins >= 0).all()
    assert again.codebook_hash == first.codebook_hash
    said = re.search(
        r"brackets those of the clustered split\): p50 (\S+) \((\S+)\), p90 .*; no limit is set", result.stdout
    )
    assert said, result.stdout
    assert said[1] == said[2] == f"{np.median(first.distances):.4g}"
    assert run_next(result.stdout) == ["report", f"{tmp_path}/new/clusterfit"]


@pytest.mark.slow
def test_what_is_far_stays_without_label_and_is_reported_as_drift(run_command, codebook, teacher, tmp_path):
    images = write_images(tmp_path / "images", 12, seed=7)
    limit = float(np.median(PseudoLabels.open(codebook.parent / "labels/train").distances)) / 2
    more = [f"config.CLUSTERFIT.ASSIGN.MAX_DISTANCE={limit}"]
    result = assign(run_command, codebook, teacher, images, tmp_path / "new", *more)
    assert result.returncode == 0, result.stderr
    labels = PseudoLabels.open(tmp_path / "new/clusterfit/labels/train")
    np.testing.assert_array_equal(labels.labels == -1, labels.distances > limit)
    manifest = json.loads((labels.folder / "manifest.json").read_text())
    assert manifest["drift"] == pytest.approx((labels.labels == -1).mean())
    assert manifest["drift"] > 0


@pytest.mark.slow
def test_the_limit_is_a_percentile_of_the_clustered_split(run_command, codebook, teacher, tmp_path):
    images = write_images(tmp_path / "images", 12, seed=7)
    more = ["config.CLUSTERFIT.ASSIGN.MAX_DISTANCE=p30"]
    result = assign(run_command, codebook, teacher, images, tmp_path / "new", *more)
    assert result.returncode == 0, result.stderr
    limit = np.percentile(PseudoLabels.open(codebook.parent / "labels/train").distances, 30)
    labels = PseudoLabels.open(tmp_path / "new/clusterfit/labels/train")
    assert labels.inputs["max_distance"] == limit
    np.testing.assert_array_equal(labels.labels == -1, labels.distances > limit)
    assert "are beyond the limit" in result.stdout
    alone = tmp_path / "alone"
    shutil.copytree(codebook, alone / "codebook")
    result = assign(run_command, alone / "codebook", teacher, images, tmp_path / "other", *more)
    assert result.returncode == 2
    assert "MAX_DISTANCE: found p30, and no labels of the clustered split beside" in result.stderr


@pytest.mark.slow
def test_another_teacher_is_refused(run_command, codebook, teacher, images, tmp_path):
    state = torch.load(teacher, weights_only=True)
    trunk_of(state)["_feature_blocks.bn1.bias"] += 1
    torch.save(state, tmp_path / "other.torch")
    result = assign(run_command, codebook, tmp_path / "other.torch", images, tmp_path / "new")
    assert result.returncode == 2
    assert "teacher.weights_sha256: it was made with" in result.stderr
    assert (
        "Name the weights of its teacher (config.CLUSTERFIT.TEACHER), leave COMPUTE.PRECISION at auto, or"
        in result.stderr
    )
    assert "delete" not in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "new/clusterfit").exists()


@pytest.mark.slow
def test_a_missing_codebook_is_named(run_command, teacher, images, tmp_path):
    result = assign(run_command, tmp_path / "none", teacher, images, tmp_path / "new")
    assert result.returncode == 2
    assert "holds no codebook" in result.stderr
