"""``+config/clusterfit=student`` over every pre-training config of VISSL: what comes out is a run of ClusterFit.

Nothing is trained here; what VISSL builds of the config before it trains is built. ``test_families.py`` trains.
"""

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import vissl
import yaml
from PIL import Image
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.compose.compose import compose

VISSLS = Path(vissl.__file__).resolve().parents[1] / "configs/config"
STUDENT = "+config/clusterfit=student"
SIMCLR = "pretrain/simclr/simclr_8node_resnet"


@functools.cache
def content(name: str) -> dict:
    return yaml.load((VISSLS / f"{name}.yaml").read_text(), yaml.CSafeLoader)["config"]


def stands_alone(name: str) -> bool:
    """It says itself what is trained, and on what. All others are parts, which VISSL lays over these."""
    config = content(name)
    trunk = config.get("MODEL", {}).get("TRUNK", {}).get("NAME")
    return bool(trunk and config.get("DATA", {}).get("TRAIN", {}).get("DATA_SOURCES"))


ALL = sorted(str(file.relative_to(VISSLS).with_suffix("")) for file in VISSLS.glob("pretrain/**/*.yaml"))
WHOLE = [name for name in ALL if stands_alone(name)]
PARTS = [name for name in ALL if name not in WHOLE]
ONE_EACH = list({name.split("/")[1]: name for name in WHOLE}.values())


@pytest.fixture
def composed(tmp_path):
    def run(*overrides: str, device: str = "config.MACHINE.DEVICE=cpu"):
        return compose([*overrides, device, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])

    return run


def require_clusterfit(engine: str, config, widths: list[str]) -> None:
    """The composed run is one of ClusterFit, in all that VISSL builds of it."""
    from classy_vision.losses import build_loss
    from classy_vision.optim import build_optimizer_schedulers
    from vissl.data.ssl_transforms import get_transform
    from vissl.hooks import default_hook_generator

    assert engine == "train"
    train, model, optimizer = config.DATA.TRAIN, config.MODEL, config.OPTIMIZER
    assert type(build_loss({**config.LOSS[config.LOSS.name], "name": config.LOSS.name})).__name__ == "ClusterFitLoss"
    assert (config.TRAINER.TASK_NAME, config.TRAINER.TRAIN_STEP_NAME) == (
        "self_supervision_task",
        "standard_train_step",
    )
    assert config.METERS.names == ["clusterfit_accuracy_meter"]

    # VISSL's hooks for a plain loss, and ours.
    hooks = [type(hook).__name__ for hook in default_hook_generator(config)]
    plain = copy.deepcopy(config)
    plain.LOSS.name = "CrossEntropyLoss"
    assert sorted(hooks) == sorted(
        [*(type(hook).__name__ for hook in default_hook_generator(plain)), "ExtractThenClusterHook"]
    )

    assert [source.removeprefix("clusterfit_") for source in train.DATA_SOURCES] in (["disk_folder"], ["disk_filelist"])
    assert (train.LABEL_SOURCES, train.LABEL_TYPE) == (["torchvision_dataset"], "standard")
    assert (train.COLLATE_FUNCTION, train.COLLATE_FUNCTION_PARAMS) == ("default_collate", {})
    sample = {"data": [Image.new("RGB", (300, 260))], "data_valid": [1], "data_idx": [0], "label": [3]}
    sample = get_transform(train.TRANSFORMS)(sample)
    assert [tuple(view.shape) for view in sample["data"]] == [(3, 224, 224)]
    assert sample["label"] == [3]

    [[name, head]] = model.HEAD.PARAMS
    assert (name, head["num_clusters"]) == ("clusterfit_head", 16000)
    # VISSL's heads start with the width of the trunk.
    assert {head["in_features"]} == {int(width) for width in widths} or not widths
    frozen = ("EVAL_MODE_ON", "FREEZE_TRUNK_ONLY", "FREEZE_TRUNK_AND_HEAD", "EXTRACT_TRUNK_FEATURES_ONLY")
    assert not any(model.FEATURE_EVAL_SETTINGS[key] for key in frozen)
    assert not any(model[key] for key in ("TEMP_FROZEN_PARAMS_ITER_MAP", "NON_TRAINABLE_PARAMS"))
    assert (model.MULTI_INPUT_HEAD_MAPPING, model.SINGLE_PASS_EVERY_CROP) == ([], False)
    assert model.WEIGHTS_INIT.PARAMS_FILE == ""

    assert (model.AMP_PARAMS.USE_AMP, model.SYNC_BN_CONFIG.SYNC_BN_TYPE) == (False, "pytorch")
    assert (config.DISTRIBUTED.BACKEND, model.SHARDED_DDP_SETUP.USE_SDP) == ("gloo", False)
    assert (optimizer.name, optimizer.use_larc, optimizer.num_epochs) == ("sgd", False, 105)
    assert optimizer.weight_decay == 0.0001
    assert set(build_optimizer_schedulers(optimizer)) == {"lr", "lr_head"}


def width_of_the_trunk(name: str) -> list[str]:
    """That which VISSL's head starts with."""
    return re.findall(r'"dims": \[(\d+)', (VISSLS / f"{name}.yaml").read_text())[:1]


def require_of_a_config(composed, name: str) -> None:
    engine, _, config = composed(f"config={name}", STUDENT)
    require_clusterfit(engine, config, width_of_the_trunk(name))


@pytest.mark.parametrize("name", ONE_EACH)
def test_of_one_config_of_each_family(composed, name):
    require_of_a_config(composed, name)


@pytest.mark.slow
def test_of_every_other_config(composed):
    assert len(WHOLE) == 32
    for name in WHOLE:
        if name not in ONE_EACH:
            require_of_a_config(composed, name)


def stacks() -> Iterator[tuple[str, list[str]]]:
    """Whole configs with parts over them, one from each folder of the family, as VISSL's users stack them."""
    for family in sorted({part.split("/")[1] for part in PARTS}):
        wholes = [name for name in WHOLE if name.split("/")[1] == family] or [SIMCLR]
        folders: dict[str, list[str]] = {}
        for part in PARTS:
            if part.split("/")[1] == family:
                folders.setdefault(part.rpartition("/")[0], []).append(part)
        for number in range(max(map(len, folders.values()))):
            parts = [of_folder[number % len(of_folder)] for of_folder in folders.values()]
            yield wholes[number % len(wholes)], parts


def require_of_a_stack(composed, whole: str, parts: list[str]) -> None:
    overrides = [f"+config/{group}={name}" for group, _, name in (part.rpartition("/") for part in parts)]
    # VISSL's data sets have an empty MACHINE block.
    device = f"{'+' * (parts[0].split('/')[1] == 'datasets')}config.MACHINE.DEVICE=cpu"
    engine, _, config = composed(f"config={whole}", *overrides, STUDENT, device=device)
    trunks = {name: content(name).get("MODEL", {}).get("TRUNK", {}).get("NAME") for name in [whole, *parts]}
    last = [name for name, trunk in trunks.items() if trunk][-1]
    require_clusterfit(engine, config, width_of_the_trunk(last))
    assert trunks[last] == config.MODEL.TRUNK.NAME


def test_of_a_config_with_parts_over_it(composed):
    model, transforms = "pretrain/swav/models/regnet400mf", "pretrain/swav/transforms/multicrop_6crop_2x160_4x96"
    require_of_a_stack(composed, "pretrain/swav/swav_8node_resnet", [model, transforms])


@pytest.mark.slow
def test_of_every_part(composed):
    assert {part for _, parts in stacks() for part in parts} == set(PARTS)
    for whole, parts in stacks():
        require_of_a_stack(composed, whole, parts)


@pytest.mark.parametrize(
    "name, what",
    [
        (
            "benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear",
            "evaluates a network",
        ),
        ("benchmark/fulltune/imagenet1k/eval_resnet_8gpu_transfer_in1k_fulltune", "evaluates a network"),
        ("feature_extraction/extract_resnet_in1k_8gpu", "whose engine is extract_features"),
    ],
)
def test_what_does_not_train_is_refused(composed, name, what):
    with pytest.raises(ConfigError, match=rf"config: found {name}, .*{what}.* with \{STUDENT}, .*trains"):
        composed(f"config={name}", STUDENT)


def test_ones_own_evaluation_is_refused(composed, tmp_path):
    """A config that freezes the trunk, wherever it lies: here in a folder that Hydra is told of."""
    linear = "benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear"
    (tmp_path / "config/own").mkdir(parents=True)
    (tmp_path / "config/own/probe.yaml").write_text(
        f"# @package _global_\ndefaults:\n  - /config/{linear}\n  - _self_\n"
    )
    with pytest.raises(ConfigError, match=r"config: found own/probe, which evaluates a network"):
        composed("config=own/probe", STUDENT, f"hydra.searchpath=[file://{tmp_path}]")


@pytest.mark.parametrize("part", ["jigsaw/permutations/perm100", "simclr/optimization/bs64_8nodes"])
def test_a_config_without_a_trunk_is_refused(composed, part):
    with pytest.raises(ConfigError, match=rf"config.MODEL.TRUNK.NAME: found nothing in config=pretrain/{part}, under"):
        composed(f"config=pretrain/{part}", STUDENT)


def test_a_trunk_on_the_command_line_will_do(composed):
    config = composed("config=pretrain/jigsaw/permutations/perm100", STUDENT, "config.MODEL.TRUNK.NAME=resnet")[2]
    assert config.MODEL.HEAD.PARAMS[0][1]["in_features"] == 2048


def test_a_config_without_data_is_refused(composed):
    with pytest.raises(
        ConfigError, match=r"config.DATA.TRAIN.DATA_SOURCES: found \[\] in pretrain/simclr/models/resnext50"
    ):
        composed("config=pretrain/simclr/models/resnext50", STUDENT)


@pytest.mark.parametrize(
    "part, setting",
    [
        ("swav/models=resnet50_w5", r"LOSS.name: found 'swav_loss'"),
        ("simclr/models=resnext50", "MODEL.HEAD.PARAMS: found mlp"),
        ("swav/transforms=multicrop_2x224", "DATA.TRAIN.TRANSFORMS: found ImgPilToMultiCrop"),
    ],
)
def test_what_undoes_the_overlay_is_refused(composed, part, setting):
    last = rf"Name the overlay last: config={SIMCLR} \+config/pretrain/{part} \{STUDENT}$"
    with pytest.raises(ConfigError, match=rf"config.{setting}.*{last}"):
        composed(f"config={SIMCLR}", STUDENT, f"+config/pretrain/{part}")


def test_what_leaves_it_be_may_come_after(composed, capsys):
    engine, _, config = composed(f"config={SIMCLR}", STUDENT, "+config/pretrain/simclr/optimization=bs32_2nodes")
    require_clusterfit(engine, config, ["2048"])
    assert (config.DATA.TRAIN.BATCHSIZE_PER_REPLICA, config.DISTRIBUTED.NUM_NODES) == (32, 2)


def test_a_sharded_training_becomes_a_plain_one(composed, capsys):
    """VISSL's overrides for its large RegNets."""
    engine, _, config = composed(
        "config=pretrain/swav/swav_8node_resnet",
        "+config/pretrain/swav/models=regnet16Gf",
        STUDENT,
        "config.MODEL.TRUNK.NAME=regnet_fsdp",
        "config.MODEL.FSDP_CONFIG.AUTO_SETUP_FSDP=true",
        "config.MODEL.SHARDED_DDP_SETUP.USE_SDP=true",
    )
    require_clusterfit(engine, config, ["3024"])
    assert config.MODEL.TRUNK.NAME == "regnet"
    said = capsys.readouterr().out
    assert "config.MODEL.TRUNK.NAME: 'regnet_fsdp' becomes 'regnet', the same network, not sharded." in said
    assert "AUTO_SETUP_FSDP: True becomes False, as VISSL shards only heads that it knows." in said


ROTNET = ("config=pretrain/rotnet/rotnet_8gpu_resnet", STUDENT)


@pytest.mark.parametrize("name", ["alexnet_deepcluster", "alexnet_jigsaw", "alexnet_rotnet", "alexnet_colorization"])
def test_trunks_whose_output_is_a_map(composed, name):
    """Those of VISSL that no config of its pre-training names. The head takes all of the map."""
    colours = {"alexnet_jigsaw": "bgr", "alexnet_colorization": "lab"}.get(name, "rgb")
    lab = ["config.DATA.TRAIN.TRANSFORMS=[{name: ImgPil2LabTensor, indices: []}]"] if colours == "lab" else []
    trunk = [
        f"config.MODEL.TRUNK.NAME={name}",
        f"config.MODEL.INPUT_TYPE={colours}",
        "config.CLUSTERFIT.NUM_CLUSTERS=7",
    ]
    model = build_model(composed(*ROTNET, *trunk, *lab)[2].MODEL, AttrDict({}))
    [logits] = model(torch.rand(2, 3, 224, 224))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_a_trunk_of_lightness_wants_images_of_it(composed):
    with pytest.raises(ConfigError, match=r"DATA.TRAIN.TRANSFORMS: found .* would take red for lightness; .*OpenCV"):
        composed(*ROTNET, "config.MODEL.TRUNK.NAME=alexnet_colorization", "config.MODEL.INPUT_TYPE=lab")


def test_the_trunk_that_does_not_run_in_vissl(composed):
    """It calls a function of VISSL's with an argument that this one does not have."""
    with pytest.raises(ConfigError, match=r"trunk alexnet_bvlc, which has no dry run \(.*'use_checkpointing'\)"):
        composed(*ROTNET, "config.MODEL.TRUNK.NAME=alexnet_bvlc")
