"""ClusterFit of VISSL's own pre-training configs, and VISSL's own benchmark and pre-training, run on the CPU.

VISSL's configs are written for machines with several GPUs and for ImageNet. ``ON_THIS_MACHINE`` is what any user with
one CPU has to override; the rest of what each test adds makes it short.
"""

import json
import math
import re

import pytest
import torch
from tiny import write_images

ON_THIS_MACHINE = (
    "config.MACHINE.DEVICE=cpu",
    "config.DISTRIBUTED.NUM_NODES=1",
    "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
    "config.DISTRIBUTED.RUN_ID=auto",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
)
# The recipe's milestones lie beyond one epoch.
ONE_EPOCH = ("config.OPTIMIZER.num_epochs=1", "config.OPTIMIZER.param_schedulers.lr.name=constant")
NARROW = "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4"


def trunk(checkpoint) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint)["classy_state_dict"]["base_model"]["model"]["trunk"]
    return {name.removeprefix("base_model.").removeprefix("_feature_blocks."): tensor for name, tensor in state.items()}


def metrics(folder) -> dict[str, dict]:
    """What VISSL measured, by the name of the meter."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {key: value for line in lines for key, value in line.items() if "meter" in key}


@pytest.mark.slow
def test_clusterfit_of_a_pre_training(run_command, tmp_path, teacher):
    """One step on one batch, with the overlay's own transforms, optimizer and loss, then an evaluation.

    With one seed the loss of that step is the same whatever is underneath: nothing but the trunk and the data is left
    of the pre-training.
    """
    images = write_images(tmp_path / "images", 8)
    losses = {}
    for name in (
        "simclr/simclr_8node_resnet",
        "swav/swav_8node_resnet",
        "rotnet/rotnet_8gpu_resnet",
        "supervised/supervised_8gpu_resnet",
    ):
        folder = tmp_path / name
        result = run_command(
            f"config=pretrain/{name}",
            "+config/clusterfit=student",
            *ON_THIS_MACHINE,
            *ONE_EPOCH,
            NARROW,
            "config.SEED_VALUE=0",
            f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
            "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
            f"config.DATA.TEST.DATA_PATHS=[{images}]",
            "config.TEST_MODEL=true",
            "config.CLUSTERFIT.NUM_CLUSTERS=4",
            "config.CLUSTERFIT.FEATURES.TEST_PARTITION=TEST",
            f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}",
            f"config.CHECKPOINT.DIR={folder}",
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        assert list(metrics(folder)) == ["train_accuracy_list_meter", "test_accuracy_list_meter"]
        [losses[name]] = re.findall(r"iter: 0; lr: [\d.]+; loss: ([\d.]+);", result.stdout)
    assert len(set(losses.values())) == 1, losses
    assert float(losses[name]) == pytest.approx(math.log(4), abs=0.5)


@pytest.mark.slow
def test_vissls_linear_evaluation_takes_the_student(run_command, tmp_path, images, student_run):
    """The benchmark for ImageNet-1K, five layers at once, on the checkpoint as it is."""
    student = student_run / "model_final_checkpoint_phase0.torch"
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
