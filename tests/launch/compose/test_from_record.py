"""Trunk, sizes and transforms of a network from the training that its weights lie in; sizes that do not go together."""

import json

import pytest
from tiny import STUDENT

from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.training.record import training_inputs, write_record
from vissl_clusterfit.plugin.training.seen_images import image_size

SMALL = [{"name": "Resize", "size": [32, 32]}, {"name": "ToTensor"}]


@pytest.fixture(scope="module")
def weights(images, teacher, tmp_path_factory):
    """Where the final checkpoint of a narrow student of 32-pixel images would be, beside its record."""
    folder = tmp_path_factory.mktemp("student")
    overrides = [f"config.DATA.TRAIN.DATA_PATHS=[{images}]", f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}"]
    config = compose([*STUDENT, *overrides, f"config.CHECKPOINT.DIR={folder}"])[2]
    write_record(config, str(folder), training_inputs(config))
    return folder / "model_final_checkpoint_phase0.torch"


def transfer(*overrides, folder):
    command = ["config=clusterfit/transfer", "config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={folder}"]
    return compose([*command, *overrides])[2]


def test_a_transfer_takes_what_the_user_does_not_give(weights, tmp_path, capsys):
    named = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}"
    config = transfer(named, folder=tmp_path)
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 4
    assert config.TRANSFER.FEATURES.TRANSFORMS == SMALL
    said = capsys.readouterr().out
    assert f"config.MODEL.TRUNK: as {weights.parent}/training.json has it" in said
    assert "config.TRANSFER.FEATURES.TRANSFORMS: [{'name': 'Resize', 'size': [32, 32]}" in said
    own = ["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=8", "config.TRANSFER.FEATURES.TRANSFORMS=[{name:ToTensor}]"]
    config = transfer(named, *own, folder=tmp_path)
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 8
    assert config.TRANSFER.FEATURES.TRANSFORMS == [{"name": "ToTensor"}]


def test_a_config_that_builds_on_ours_keeps_its_transforms(weights, tmp_path, capsys, monkeypatch):
    (tmp_path / "configs/config").mkdir(parents=True)
    own = "# @package _global_\ndefaults: [/config/clusterfit/transfer, _self_]\nconfig:\n  TRANSFER:\n    FEATURES:\n"
    own += "      TRANSFORMS: [{name: CenterCrop, size: 40}, {name: ToTensor}]\n"
    (tmp_path / "configs/config/own.yaml").write_text(own)
    monkeypatch.chdir(tmp_path)
    command = ["config=own", "config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path}"]
    config = compose([*command, f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}"])[2]
    assert image_size(config.TRANSFER.FEATURES.TRANSFORMS) == 40
    warning = "config.TRANSFER.FEATURES.TRANSFORMS: images of 40 pixels, and the network was trained with 32."
    assert warning in capsys.readouterr().out


def test_weights_that_lie_elsewhere_say_nothing(weights, teacher, tmp_path):
    config = transfer(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}", folder=tmp_path)
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 64
    assert image_size(config.TRANSFER.FEATURES.TRANSFORMS) == 224


def test_sizes_that_differ_are_told(images, weights, tmp_path, capsys, monkeypatch):
    """The overlay on a config of small crops, with the teacher of small crops, and features of large images."""
    crops = "config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resize,size:256},{name:CenterCrop,size:224},{name:ToTensor}]"
    overrides = [f"config.DATA.TRAIN.DATA_PATHS=[{images}]", f"config.CLUSTERFIT.TEACHER.WEIGHTS={weights}"]
    compose([*STUDENT, *overrides, crops, f"config.CHECKPOINT.DIR={tmp_path}"])
    said = capsys.readouterr().out
    warning = "warning: config.CLUSTERFIT.FEATURES.TRANSFORMS: images of 224 pixels, and "
    assert said.count(warning) == said.count(f"{warning}the teacher was trained with 32. ") == 1
    assert "RandomResizedCrop 224 + " in said  # of the config below; and what it becomes
    assert "becomes RandomResizedCrop 32 + ToTensor" in said
    (tmp_path / "configs/config").mkdir(parents=True)
    base = "# @package _global_\ndefaults: [/config/test/cpu_test/test_cpu_resnet_simclr, _self_]\nconfig:\n  DATA:\n"
    base += "    TRAIN:\n      TRANSFORMS: [{name: RandomResizedCrop, size: 40}, {name: ToTensor}]\n"
    (tmp_path / "configs/config/small.yaml").write_text(base)
    data = [f"config.DATA.TRAIN.DATA_PATHS=[{images}]", "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]"]
    monkeypatch.chdir(tmp_path)  # VISSL looks in ./configs, too
    compose(["config=small", "+config/clusterfit=student", *data, f"config.CHECKPOINT.DIR={tmp_path}"])
    said = capsys.readouterr().out
    assert "TRANSFORMS: RandomResizedCrop 40 + ToTensor becomes RandomResizedCrop 224 + " in said
    assert f"{warning}config=small was trained with 40. " in said


def test_the_size_that_is_told_is_that_of_the_library(images, weights, tmp_path, capsys):
    overrides = [f"config.DATA.TRAIN.DATA_PATHS=[{images}]", f"config.CLUSTERFIT.TEACHER.WEIGHTS={weights}"]
    named = "config.CLUSTERFIT.TEACHER.MODEL=torchvision:inception_v3"
    other = [each for each in STUDENT if "FEATURES.TRANSFORMS" not in each and "LAYER_NAME" not in each]
    compose([*other, *overrides, named, f"config.CHECKPOINT.DIR={tmp_path}"])
    said = capsys.readouterr().out
    assert "FEATURES.TRANSFORMS: images of 299 pixels, and the teacher was trained with 32." in said


@pytest.mark.parametrize(
    "transforms, size",
    [
        ([{"name": "RandomResizedCrop", "size": 40}, {"name": "ToTensor"}], 40),
        ([{"name": "Resize", "size": 256}, {"name": "CenterCrop", "size": 224}], 224),
        ([{"name": "Resize", "size": [32, 32]}], 32),
        ([{"name": "Resize", "size": 256}], None),  # the shorter side
        ([{"name": "Resize", "size": [32, 40]}], None),
        ([{"name": "ToTensor"}], None),
    ],
)
def test_the_size_of_images(transforms, size):
    assert image_size(transforms) == size


def test_a_record_that_is_no_record_of_a_training_is_left_out(weights, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"inputs": []}))
    config = transfer(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={tmp_path}/checkpoint.torch", folder=tmp_path)
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 64
