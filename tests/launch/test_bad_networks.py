"""Networks, weights and teachers of no use: one message, exit code 2, and nothing on disk that looks done."""

import os
import shutil

import numpy as np
import pytest
import torch
from checkpoint_parts import trunk_of
from pickled_calls import Reduced
from refusals import require_refusal

#: What is wrong, and what the message says.
MISTAKES = {
    "a head without its parameters": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_head]]"],
        ["config.MODEL.HEAD.PARAMS[0]: found ['clusterfit_head']; allowed: [name, {parameters}]"],
    ),
    "a depth that the trunk does not have, and the head's width to be found": (
        ["config.MODEL.TRUNK.RESNETS.DEPTH=18"],
        ["config.MODEL: found a network that cannot be built, trunk resnet: ValueError: 18 is not a valid"],
    ),
    "a width below zero": (
        ["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=-4"],
        ["config.MODEL: found a network that cannot be built", "negative dimension -4"],
    ),
    "a parameter that the loss does not take": (
        ["+config.LOSS.CrossEntropyLoss.smooth=1", "config.LOSS.name=CrossEntropyLoss"],
        ["config.LOSS.CrossEntropyLoss: found ignore_index, smooth; allowed: parameters that it takes (TypeError:"],
    ),
    "a parameter that the head does not take": (
        ["config.MODEL.HEAD.PARAMS=[[mlp,{dim:[2048,4]}]]"],
        ["config.MODEL.HEAD.PARAMS: mlp: found dim; allowed: parameters that it takes (TypeError:"],
    ),
    "initial weights that do not exist": (
        ["config.MODEL.WEIGHTS_INIT.PARAMS_FILE=nowhere.torch"],
        ["config.MODEL.WEIGHTS_INIT.PARAMS_FILE: found nowhere.torch, which does not exist"],
    ),
    "no weights": (
        ["config.CLUSTERFIT.TEACHER.WEIGHTS=''"],
        ["config.CLUSTERFIT.TEACHER.WEIGHTS: found nothing"],
    ),
    "weights that do not exist": (
        ["config.CLUSTERFIT.TEACHER.WEIGHTS=nowhere.torch"],
        ["config.CLUSTERFIT.TEACHER.WEIGHTS: found nowhere.torch, which does not exist"],
    ),
    "a layer that does not exist": (
        ["config.CLUSTERFIT.FEATURES.LAYER_NAME=res6"],
        ["FEATURES.LAYER_NAME: found 'res6'", "conv1", "res5", "flatten", "heads"],
    ),
    "no head": (
        ["config.MODEL.HEAD.PARAMS=[]"],
        ["config.MODEL.HEAD.PARAMS: found []; allowed: one head or more for a training"],
    ),
    "a head for another trunk": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_head,{num_clusters:4,in_features:7}]]"],
        ["config.MODEL.HEAD.PARAMS: in_features of clusterfit_head: found 7; allowed: 2048, the width of the trunk"],
    ),
    "a second head": (
        ["config.MODEL.HEAD.PARAMS=[[clusterfit_head,{num_clusters:4}],[clusterfit_head,{num_clusters:4}]]"],
        ["config.MODEL.HEAD.PARAMS[1]: found clusterfit_head behind clusterfit_head; allowed: clusterfit_head as"],
    ),
    "a trunk of no width": (
        ["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=0"],
        ["config.MODEL.HEAD.PARAMS: found clusterfit_head without in_features for the trunk resnet"],
    ),
    "no trunk": (["config.MODEL.TRUNK=null"], ["config.MODEL.TRUNK: found None; allowed: a value of type dict"]),
    "a head of another width": (
        ["config.MODEL.HEAD.PARAMS=[[mlp,{dims:[2048,7]}]]"],
        ["config.MODEL.HEAD.PARAMS: found a head of width 7; allowed: 4"],
    ),
}


@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_gets_one_message(refuse, overrides, fragments):
    require_refusal(refuse(*overrides), *fragments)


@pytest.mark.parametrize(
    ("name", "by_link", "num_processes"),
    [
        ("model_phase0.torch", False, 1),
        ("checkpoint.torch", True, 1),
        pytest.param("model_phase0.torch", False, 2, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_that_runs_code_is_refused(
    student_run, run_command, student_overrides, tmp_path, name, by_link, num_processes
):
    folder = tmp_path / "run"
    shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
    torch.save({"classy_state_dict": Reduced(os.mkdir, ("trapped",))}, folder / name)
    overrides = (
        f"config.CHECKPOINT.DIR={folder}",
        f"config.CHECKPOINT.USE_SYMLINK_CHECKPOINT_FOR_RESUME={by_link}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
    )
    result = run_command(*student_overrides, *overrides, cwd=tmp_path)
    require_refusal(result, f"{folder / name} runs code when it is opened", "posix.mkdir")
    assert not (tmp_path / "trapped").exists()


def other_network(path, _teacher):
    torch.save({"features.0.weight": torch.ones(8, 3, 3, 3)}, path)
    return f"{path} holds no tensor of the trunk"


def part_of_the_network(path, teacher):
    state = trunk_of(torch.load(teacher))
    torch.save({name: tensor for name, tensor in state.items() if "layer4" not in name}, path)
    return f"{path} fits the trunk only in part"


def text(path, _teacher):
    path.write_text("weights")
    return f"{path} is no checkpoint"


@pytest.mark.parametrize("make", [other_network, part_of_the_network, text])
def test_weights_of_no_use(refuse, tmp_path, teacher, make):
    path = tmp_path / "weights.torch"
    fragment = make(path, teacher)
    require_refusal(refuse(f"config.CLUSTERFIT.TEACHER.WEIGHTS={path}"), fragment)


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_teacher_that_gives_nan(refuse, tmp_path, teacher, num_processes):
    """With several processes each finds it, and still there is one message."""
    checkpoint = torch.load(teacher)
    trunk_of(checkpoint)["_feature_blocks.conv1.weight"].fill_(np.nan)
    torch.save(checkpoint, tmp_path / "nan.torch")
    result = refuse(
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'nan.torch'}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
    )
    require_refusal(result, "The teacher gave NaN or infinite features for 8 of the samples")
    assert result.stderr.count("The teacher gave NaN") == 1
