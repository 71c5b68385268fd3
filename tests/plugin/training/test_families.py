"""A step of ClusterFit of each family of VISSL's pre-training, through the real command on the CPU.

Trunks are narrow and shallow; the data go through the overlay's own transforms. The teacher is a network of the same
trunk, as after the family's own pre-training.
"""

import json
import math
import re

import pytest
import torch
from shrunk import ON_THIS_MACHINE, ONE_EPOCH, SMALL_REGNET, SMALL_TRUNK
from tiny import write_images

from vissl_clusterfit.launch.compose.compose import compose

STUDENT = "+config/clusterfit=student"
#: Each pre-training method, and each trunk.
RESNET_50 = (
    "barlow_twins/barlow_twins_4node_resnet",
    "deepcluster_v2/deepclusterv2_2crops_resnet",
    "jigsaw/jigsaw_8gpu_resnet",
    "npid/npid++_4nodes_resnet",
    "pirl/pirl_jigsaw_4node_resnet50",
    "rotnet/rotnet_8gpu_resnet",
    "simclr/simclr_8node_resnet",
    "supervised/supervised_8gpu_resnet",
    "swav/swav_8node_resnet",
)
OTHER_TRUNKS = (
    "dino/dino_16gpus_deits16",
    "dino/dino_16gpus_xcit_small_12_p16",
    "moco/moco_1node_resnet",
    "supervised/supervised_8gpu_regnety",
    "supervised/supervised_8gpu_resnext",
    "vision_transformer/moco/convit_b",
    "vision_transformer/swav/deit_b_2nodes",
)


@pytest.fixture(scope="module")
def eight_images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 8)


def family(name):
    regnet = [SMALL_REGNET] if "regnet" in name else []
    return [f"config=pretrain/{name}", STUDENT, *ON_THIS_MACHINE, *SMALL_TRUNK, *regnet]


def save_teacher(folder, name):
    """The family's network at a random start, as a VISSL checkpoint, and how many parameters it has to train."""
    from classy_vision.generic.util import save_checkpoint
    from vissl.config import AttrDict
    from vissl.models import build_model

    few = "config.CLUSTERFIT.NUM_CLUSTERS=4"
    config = compose([*family(name), few, f"config.CHECKPOINT.DIR={folder}"])[2]
    torch.manual_seed(1)
    model = build_model(config.MODEL, AttrDict({}))
    save_checkpoint(str(folder), {"classy_state_dict": {"base_model": model.get_classy_state()}}, "teacher.torch")
    return folder / "teacher.torch", sum(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def run_a_step(run_command, tmp_path, eight_images):
    """Trains on one batch, tests if there is a held-out split, and gives the loss of the step and what was saved."""

    def run(name, teacher, held_out=False):
        test = [
            "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
            f"config.DATA.TEST.DATA_PATHS=[{eight_images}]",
            "config.TEST_MODEL=true",
            "config.CLUSTERFIT.FEATURES.TEST_PARTITION=TEST",
        ]
        folder = tmp_path / name
        result = run_command(
            *family(name),
            *ONE_EPOCH,
            f"config.DATA.TRAIN.DATA_PATHS=[{eight_images}]",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
            *(test if held_out else []),
            "config.SEED_VALUE=0",
            "config.CLUSTERFIT.NUM_CLUSTERS=4",
            "config.CLUSTERFIT.EXPORT=false",
            # What auto measures may differ from family to family, and to measure takes longer than the step.
            "config.CLUSTERFIT.COMPUTE.PRECISION=float32",
            "config.CLUSTERFIT.COMPUTE.CHANNELS_LAST=false",
            f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}",
            f"config.CHECKPOINT.DIR={folder}",
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        measured = [key for line in lines for key in line if "meter" in key]
        assert measured == ["train_accuracy_list_meter", "test_accuracy_list_meter"][: 1 + held_out]
        [loss] = re.findall(r"iter: 0; lr: [\d.]+; loss: ([\d.]+);", result.stdout)
        return float(loss), torch.load(folder / "model_final_checkpoint_phase0.torch")["classy_state_dict"]

    return run


@pytest.mark.slow
def test_pre_trainings_of_one_trunk_become_the_same_run(run_a_step, tmp_path):
    """With one seed the loss of the first step is the same: of the method only the trunk and the data are left."""
    teacher, _ = save_teacher(tmp_path, RESNET_50[0])
    losses = {name: run_a_step(name, teacher)[0] for name in RESNET_50}
    assert len(set(losses.values())) == 1, losses
    assert losses[RESNET_50[0]] == pytest.approx(math.log(4), abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_TRUNKS)
def test_a_step_of_another_trunk(run_a_step, tmp_path, name):
    teacher, num_trained = save_teacher(tmp_path, name)
    loss, saved = run_a_step(name, teacher, held_out=True)
    assert loss == pytest.approx(math.log(4), abs=0.8)
    # Every parameter has its momentum: all of the network was trained.
    assert len(saved["optimizer"]["optim"]["state"]) == num_trained
