"""What version 0.1 left on disk opens, verifies, resumes and trains; ``tests/data/make_version_0_1.py`` made it."""

import tarfile

import numpy as np
import pytest
import stage_work
import torch
from checkpoint_parts import network_of
from processes import outcome
from repository import ROOT
from tiny import STUDENT
from tiny_store import contents

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.report.results import read_results
from vissl_clusterfit.verification.verify import verify_artifacts

WHOLE = ("plain", "half", "cosine", "whitened", "two_levels", "top", "far")
TRUNK = (
    "config.MODEL.TRUNK.NAME=regnet",
    "++config.MODEL.TRUNK.REGNET={name:anynet,stem_type:simple_stem_in,stem_width:8,block_type:res_basic_block,"
    "depths:[1,1,1,1],widths:[8,8,8,8],strides:[1,2,2,2],group_widths:[8,8,8,8],"
    "bottleneck_multipliers:[1.0,1.0,1.0,1.0],use_se:false}",
)


@pytest.fixture
def left(tmp_path):
    """The folder that was left."""
    with tarfile.open(ROOT / "tests/data/version_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="tar")  # the checkpoint of a run was an absolute link
    return tmp_path / "version_0_1"


@pytest.fixture
def command(left, run_command):
    def run(folder: str, *overrides: str):
        return run_command(
            *STUDENT,
            *TRUNK,
            "config.CLUSTERFIT.FEATURES.LAYER_NAME=flatten",
            "config.DATA.TRAIN.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
            f"config.DATA.TRAIN.DATA_PATHS=[{left / 'images'}]",
            f"config.CLUSTERFIT.TEACHER.WEIGHTS={left / 'teacher/teacher.torch'}",
            "config.OPTIMIZER.num_epochs=4",
            "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
            f"config.CHECKPOINT.DIR={left / folder}",
            *overrides,
            cwd=left,
        )

    return run


@pytest.mark.parametrize("kind", WHOLE)
def test_artefacts_open_verify_and_give_the_labels_that_they_gave(left, tmp_path, kind):
    run = left / "whole" / kind
    assert [problems for _, problems in verify_artifacts([run])] == [[]] * 5
    labels = PseudoLabels.open(run / "labels/train")
    again = label_store(
        FeatureStore.open(run / "features/train"),
        Codebook.open(run / "codebook"),
        "cpu",
        tmp_path / "again",
        top_clusters=labels.top_clusters,
    )
    assert (again.labels == labels.labels).all()
    assert again.inputs == labels.inputs


@pytest.mark.parametrize("kind", stage_work.CLUSTERINGS)
def test_a_clustering_that_was_killed_resumes(left, kind):
    folder = left / "stopped_clustering" / kind.replace(" ", "_")
    options = {"num_iter": 14} if kind == "in parts" else {"num_iter": 6}
    assert outcome(stage_work.cluster, folder / "features", folder / "codebook", kind, **options) == 0
    found, expected = Codebook.open(folder / "codebook"), Codebook.open(folder / "undisturbed")
    np.testing.assert_array_equal(found.centroids, expected.centroids)
    np.testing.assert_array_equal(found.counts, expected.counts)
    # The objective is added up in another order since.
    np.testing.assert_allclose(found.manifest["objective"], expected.manifest["objective"], rtol=1e-12)


@pytest.mark.parametrize(("kind", "bound"), [("nearest", 0.0), ("bounded", 1.2)])
def test_a_labelling_that_was_killed_resumes(left, kind, bound):
    base = left / "stopped_labels"
    folder = base / kind
    work = (stage_work.label, base / "features", base / "codebook", folder / "labels")
    assert outcome(*work, max_cluster_size=bound) == 0
    assert contents(folder / "labels") == contents(folder / "undisturbed")


def test_an_extraction_that_was_killed_resumes(left):
    base = left / "stopped_extraction"
    assert outcome(stage_work.extract, base / "features", 45) == 0
    assert contents(base / "features") == contents(base / "undisturbed")


def trained(folder):
    file = folder / "model_final_checkpoint_phase3.torch"
    return network_of(torch.load(file, weights_only=False))


@pytest.mark.slow
def test_a_training_that_was_killed_resumes_with_its_labels(left, command):
    before = contents(left / "stopped/clusterfit")
    result = command("stopped")
    assert result.returncode == 0, result.stderr
    assert contents(left / "stopped/clusterfit") == before
    found, expected = trained(left / "stopped"), trained(left / "student")
    for part in ("trunk", "heads"):
        assert found[part].keys() == expected[part].keys()
        for name, weights in found[part].items():  # another processor rounds sums in another way
            torch.testing.assert_close(weights, expected[part][name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_finished_training_is_finished_and_its_student_is_scored(left, command):
    final = left / "student/model_final_checkpoint_phase3.torch"
    before = final.read_bytes()
    result = command("student")
    assert result.returncode == 0, result.stderr
    assert "This training is finished" in result.stdout
    assert final.read_bytes() == before


def test_its_results_are_read(left):
    [row] = read_results(left / "transfer")
    assert (row.benchmark, row.metric) == ("knn", "top-1 accuracy")
