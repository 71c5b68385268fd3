"""A step of ClusterFit of each family of VISSL's pre-training, through the real command on the CPU.

Trunks are narrow and shallow; the data go through the overlay's own transforms. The teacher is a network of the same
trunk, as after the family's own pre-training.
"""

import math
import re

import pytest
import torch
from shrunk import ON_THIS_MACHINE, ONE_EPOCH, SMALL_REGNET, SMALL_TRUNK
from tiny import write_images

from vissl_clusterfit.adapters.launch import compose

FAMILIES = (
    "barlow_twins/barlow_twins_4node_resnet",
    "clusterfit/cluster_features_resnet_8gpu_imagenet",
    "deepcluster_v2/deepclusterv2_2crops_resnet",
    "dino/dino_16gpus_deits16",
    "dino/dino_16gpus_xcit_small_12_p16",
    "dino/dino_64gpus_deits8",
    "jigsaw/jigsaw_8gpu_resnet",
    "moco/moco_1node_resnet",
    "npid/npid++_4nodes_resnet",
    "pirl/pirl_jigsaw_4node_resnet50",
    "rotnet/rotnet_8gpu_resnet",
    "simclr/simclr_8node_resnet",
    "supervised/supervised_8gpu_regnety",
    "supervised/supervised_8gpu_resnext",
    "swav/swav_8node_resnet",
    "vision_transformer/moco/convit_b",
    "vision_transformer/simclr/vit_b16",
    "vision_transformer/supervised/16gpu_deit_b_example",
    "vision_transformer/swav/convit_s_2nodes",
)


@pytest.fixture(scope="module")
def eight_images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 8)


def save_teacher(folder, overrides):
    """The config's network at a random start, as a VISSL checkpoint."""
    from classy_vision.generic.util import save_checkpoint
    from vissl.config import AttrDict
    from vissl.models import build_model

    config = compose([*overrides, f"config.CHECKPOINT.DIR={folder}"])[2]
    torch.manual_seed(1)
    model = build_model(config.MODEL, AttrDict({}))
    save_checkpoint(str(folder), {"classy_state_dict": {"base_model": model.get_classy_state()}}, "teacher.torch")
    return folder / "teacher.torch"


def family_overrides(name):
    regnet = [SMALL_REGNET] if "regnet" in name else []
    return [
        f"config=pretrain/{name}",
        "+config/clusterfit=student",
        *ON_THIS_MACHINE,
        *SMALL_TRUNK,
        *regnet,
        "config.CLUSTERFIT.NUM_CLUSTERS=4",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_its_trunk(run_command, tmp_path, eight_images, name):
    overrides = family_overrides(name)
    teacher = save_teacher(tmp_path, overrides)
    result = run_command(
        *overrides,
        *ONE_EPOCH,
        f"config.DATA.TRAIN.DATA_PATHS=[{eight_images}]",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    [loss] = re.findall(r"iter: 0; lr: [\d.]+; loss: ([\d.]+);", result.stdout)
    assert float(loss) == pytest.approx(math.log(4), abs=0.7)
    states = [
        torch.load(file)["classy_state_dict"]["base_model"]["model"]
        for file in (teacher, tmp_path / "run/model_final_checkpoint_phase0.torch")
    ]
    assert states[0]["trunk"].keys() == states[1]["trunk"].keys()
