"""Real trainings with a partial head: with every kind of target, resumed, and refused where logits are needed."""

import shutil

import numpy as np
import pytest
import torch
from tiny import NO_CHANCE

from vissl_clusterfit.plugin.training.cluster_rows import ClusterRows

PARTIAL = ("config.CLUSTERFIT.HEAD.KIND=partial", "config.CLUSTERFIT.HEAD.RATE=0.6")


def trunk_of(checkpoint):
    return checkpoint["classy_state_dict"]["base_model"]["model"]["trunk"]


def rows_in(folder, num_clusters=4):
    rows = ClusterRows(num_clusters, 2048, seed=0)
    rows.load(folder)
    return rows.weights


def test_a_training_that_was_stopped_ends_with_the_same_weights_and_rows(train, tmp_path):
    options = (*PARTIAL, NO_CHANCE, "config.OPTIMIZER.num_epochs=3", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    said, expected = train("undisturbed", *options)
    assert "clusterfit_partial_head" in said
    rows = [rows_in(tmp_path / f"undisturbed/head_phase{phase}/0") for phase in range(3)]
    assert not torch.equal(rows[0], rows[2])
    assert not any("clf" in name for name in expected["classy_state_dict"]["base_model"]["model"]["heads"])
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "run")
    (tmp_path / "run/model_final_checkpoint_phase2.torch").unlink()
    (tmp_path / "run/model_phase1.torch").unlink()  # as if it had been killed in the second epoch
    (tmp_path / "run/head_phase2/0/rows.json").unlink()
    _, found = train("run", *options)
    for name, value in trunk_of(expected).items():
        assert torch.equal(value, trunk_of(found)[name]), name
    assert torch.equal(rows_in(tmp_path / "run/head_phase2/0"), rows[2])

    (tmp_path / "run/model_final_checkpoint_phase2.torch").unlink()
    (tmp_path / "run/model_phase2.torch").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "run/head_phase1")
    said, _ = train("run", *options, code=2)
    assert "head_phase1/0/rows.json is missing" in said
    assert "Traceback" not in said


def test_two_processes_share_the_rows_and_a_held_out_split_is_scored(train, tmp_path, held_out):
    soft = ("config.CLUSTERFIT.TARGETS.KIND=soft", "config.CLUSTERFIT.TARGETS.NUM_NEAREST=3")
    options = (*PARTIAL, *soft, *held_out, "config.CLUSTERFIT.TARGETS.PERPLEXITY=2.0")
    _, checkpoint = train("run", *options, "config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    files = sorted(file.name for file in (tmp_path / "run/head_phase0/0").glob("*.npy"))
    assert files == ["rows-000000000-000000002.npy", "rows-000000002-000000004.npy"]
    assert np.isfinite(checkpoint["classy_state_dict"]["losses"]).all()


@pytest.fixture
def begun_on_two(train, tmp_path):
    """A training on two processes that was killed in its second epoch, which has the learning rate 0."""
    still = (
        "config.OPTIMIZER.param_schedulers.lr={name:multistep,values:[0.05,0.0],milestones:[1],update_interval:epoch}"
    )
    options = (*PARTIAL, NO_CHANCE, still, "config.OPTIMIZER.num_epochs=2", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    train("run", *options, *on(2))
    (tmp_path / "run/model_final_checkpoint_phase1.torch").unlink()
    shutil.rmtree(tmp_path / "run/head_phase1")
    return options


def on(processes, batch=12):
    return (
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={processes}",
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={batch // processes}",
    )


@pytest.mark.parametrize(("processes", "rows_of_each"), [(1, [4]), (3, [1, 1, 2])])
def test_what_two_processes_saved_others_resume_with_equal_rows(train, tmp_path, begun_on_two, processes, rows_of_each):
    saved = rows_in(tmp_path / "run/head_phase0/0")
    _, checkpoint = train("run", *begun_on_two, *on(processes))
    files = [*(tmp_path / "run/head_phase1/0").glob("*.npy")]
    assert sorted(len(np.load(file)) for file in files) == rows_of_each
    assert torch.equal(rows_in(tmp_path / "run/head_phase1/0"), saved)
    assert np.isfinite(checkpoint["classy_state_dict"]["losses"]).all()


def test_another_batch_of_all_processes_is_another_training(train, begun_on_two):
    said, _ = train("run", *begun_on_two, *on(3, batch=24), code=2)
    assert "DATA.TRAIN.BATCHSIZE_PER_REPLICA: it was made with 6, this run has 8" in said
    assert "NUM_PROC_PER_NODE: it was made with 2, this run has 3" in said


def test_soft_nested_targets_have_rows_for_each_number_of_clusters(train, tmp_path):
    targets = ("KIND=soft_nested", "NUM_NEAREST=3", "PERPLEXITY=2.0", "ALSO_PERPLEXITY=[1.5]")
    options = [f"config.CLUSTERFIT.TARGETS.{setting}" for setting in targets]
    _, checkpoint = train("run", *PARTIAL, *options, "config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[2]")
    assert np.isfinite(checkpoint["classy_state_dict"]["losses"]).all()
    shapes = [rows_in(tmp_path / f"run/head_phase0/{number}", width).shape for number, width in ((0, 4), (1, 2))]
    assert shapes == [(4, 2048), (2, 2048)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("config.OPTIMIZER.name=adamw", "config.OPTIMIZER.name: found adamw with CLUSTERFIT.HEAD.KIND=partial"),
        ("config.LOSS.clusterfit_loss.label_smoothing=0.1", "label_smoothing: found 0.1 with CLUSTERFIT.HEAD"),
        (
            "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[2048,4]}]]",
            "config.MODEL.HEAD.PARAMS: found mlp with CLUSTERFIT.HEAD",
        ),
        ("config.CLUSTERFIT.HEAD.MARGIN=0.2", "config.CLUSTERFIT.HEAD.MARGIN: found 0.2 without COSINE"),
        ("config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=2", "CHECKPOINT_ITER_FREQUENCY: found 2 with"),
    ],
)
def test_what_needs_all_logits_or_another_optimizer_is_refused(train, tmp_path, override, message):
    said, _ = train("run", *PARTIAL, override, code=2)
    assert message in said
    assert not (tmp_path / "run").exists()
