"""VISSL's own benchmark and pre-training, run on the CPU. ClusterFit of its pre-trainings: test_families.py.

VISSL's configs are written for machines with several GPUs and for ImageNet. ``ON_THIS_MACHINE`` is what any user with
one CPU has to override; the rest of what each test adds makes it short.
"""

import json

import pytest
import torch
from checkpoint_parts import trunk_of
from shrunk import NARROW, ON_THIS_MACHINE, ONE_EPOCH
from tiny import write_images


def trunk(checkpoint) -> dict[str, torch.Tensor]:
    state = trunk_of(torch.load(checkpoint))
    return {name.removeprefix("base_model.").removeprefix("_feature_blocks."): tensor for name, tensor in state.items()}


def metrics(folder) -> dict[str, dict]:
    """What VISSL measured, by the name of the meter."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {key: value for line in lines for key, value in line.items() if "meter" in key}


@pytest.mark.slow
def test_vissls_linear_evaluation_takes_the_student(run_command, tmp_path, student_run):
    """The benchmark for ImageNet-1K, five layers of 224 pixels at once, on the checkpoint as it is."""
    images, student = write_images(tmp_path / "images", 6), student_run / "model_final_checkpoint_phase0.torch"
    result = run_command(
        "config=benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear",
        *ON_THIS_MACHINE,
        *ONE_EPOCH,
        NARROW,
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.DATA.TEST.DATA_PATHS=[{images}]",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={student}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    accuracies = metrics(tmp_path / "run")["test_accuracy_list_meter"]["top_1"]
    assert list(accuracies) == ["conv1", "res2", "res3", "res4", "res5"]
    before, after = trunk(student), trunk(tmp_path / "run/model_final_checkpoint_phase0.torch")
    assert before.keys() == after.keys()
    # Of its own accord VISSL leaves out only the counter of batches.
    names = [name for name in before if not name.endswith("num_batches_tracked")]
    assert len(names) == 265
    assert all(torch.equal(before[name], after[name]) for name in names)


@pytest.mark.slow
def test_vissls_own_pre_training_runs(run_command, tmp_path):
    """quick_simclr, on synthetic images."""
    result = run_command(
        "config=test/integration_test/quick_simclr",
        *ON_THIS_MACHINE,
        NARROW,
        "config.DATA.TRAIN.DATA_SOURCES=[synthetic]",
        "config.DATA.TRAIN.DATA_LIMIT=8",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
        "config.OPTIMIZER.use_larc=false",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert len(torch.load(tmp_path / "run/model_final_checkpoint_phase1.torch")["classy_state_dict"]["losses"]) == 2
