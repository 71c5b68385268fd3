"""Networks of other libraries by name under VISSL: as teachers, as students, and what comes after."""

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from checkpoint_parts import trunk_of
from library_networks import of_timm, of_torchvision, of_transformers, pictures
from results_file import rows_in
from vissl.config import AttrDict

from vissl_clusterfit.errors import ClusterFitError, ConfigError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.models import load
from vissl_clusterfit.plugin.models.encoder import OF_WEIGHTS_INIT, build_encoder, evaluated_spec

TEACHERS = {
    "torchvision": lambda folder: of_torchvision("resnet18", folder),
    "timm": lambda folder: of_timm("vit_tiny_patch16_224", folder),
    "transformers": lambda folder: of_transformers("dinov2", folder),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, picture in enumerate(pictures(8)):
        (folder / f"class{number % 2}").mkdir(exist_ok=True)
        picture.save(folder / f"class{number % 2}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return of_timm("resnet10t", tmp_path_factory.mktemp("teacher"))


def teacher_of(saved):
    return [f"config.CLUSTERFIT.TEACHER.MODEL={saved.name}", f"config.CLUSTERFIT.TEACHER.WEIGHTS={saved.weights}"]


def on_cpu(images, folder, config="clusterfit/student"):
    return [
        f"config={config}",
        "config.MACHINE.DEVICE=cpu",
        "config.DISTRIBUTED.NUM_NODES=1",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
        "config.DISTRIBUTED.RUN_ID=auto",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
        "config.DATA.TRAIN.DATASET_NAMES=[pictures]",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.CHECKPOINT.DIR={folder}",
        "config.CLUSTERFIT.NUM_CLUSTERS=3",
    ]


def training(epochs=1):
    views = "[{name:RandomResizedCrop,size:32},{name:ToTensor}]"
    size = [f"config.DATA.TRAIN.TRANSFORMS={views}", "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4"]
    return [*size, f"config.OPTIMIZER.num_epochs={epochs}"]


ONE_RATE = (
    "config.OPTIMIZER.param_schedulers.lr={name:constant,value:0.01,update_interval:epoch,"
    "auto_lr_scaling:{auto_scale:false}}"
)


def test_two_settings_choose_a_teacher(saved, images, tmp_path, capsys):
    config = compose([*on_cpu(images, tmp_path), *teacher_of(saved)])[2]
    trunk = config.CLUSTERFIT.TEACHER.MODEL["TRUNK"]
    assert trunk == {"NAME": "library_network", "LIBRARY_NETWORK": {"ARGUMENTS": {}, "MODEL": saved.name}}
    assert config.MODEL.TRUNK.NAME == "resnet"
    assert load(saved.name).transforms == config.CLUSTERFIT.FEATURES.TRANSFORMS
    said = "FEATURES.TRANSFORMS: for timm:resnet10t, Resize (size 201, interpolation bicubic), CenterCrop (size 176)"
    assert said in capsys.readouterr().out


def test_the_users_transforms_stay(saved, images, tmp_path, capsys):
    own = "config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resize,size:[40,40]},{name:ToTensor}]"
    config = compose([*on_cpu(images, tmp_path), *teacher_of(saved), own])[2]
    assert config.CLUSTERFIT.FEATURES.TRANSFORMS == [{"name": "Resize", "size": [40, 40]}, {"name": "ToTensor"}]
    assert "for timm:resnet10t, Resize (size [40, 40]), ToTensor; as given." in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, width",
    [("torchvision:mobilenet_v3_small", 1024), ("torchvision:regnet_y_400mf", 440), ("timm:convnext_atto", 320)],
)
def test_one_setting_chooses_a_student(name, width, images, tmp_path):
    model = compose([*on_cpu(images, tmp_path), f"config.MODEL.TRUNK.NAME={name}"])[2].MODEL
    block, heads = model.TRUNK.LIBRARY_NETWORK, model.HEAD.PARAMS
    assert block == {"ARGUMENTS": {}, "MODEL": name}
    assert heads == [["clusterfit_head", {"num_clusters": 3, "in_features": width}]]


def test_a_model_of_transformers_is_kept_without_its_folder(images, tmp_path):
    saved = of_transformers("clip", tmp_path / "clip")
    overrides = [*on_cpu(images, tmp_path / "run"), *teacher_of(saved), f"config.MODEL.TRUNK.NAME={saved.name}"]
    config = compose(overrides)[2]
    student, teacher = config.MODEL.TRUNK.LIBRARY_NETWORK, config.CLUSTERFIT.TEACHER.MODEL["TRUNK"]["LIBRARY_NETWORK"]
    assert student.MODEL == teacher["MODEL"] == "transformers:clip_vision_model"
    assert student.CONFIG.hidden_size == teacher["CONFIG"]["hidden_size"] == 32
    assert str(tmp_path / "clip/model.safetensors") == config.CLUSTERFIT.TEACHER.WEIGHTS
    assert config.MODEL.HEAD.PARAMS[0][1]["in_features"] == 32


@pytest.mark.parametrize(
    "mistake, message",
    [
        ("config.MODEL.TRUNK.NAME=torchvison:resnet18", r"Did you mean torchvision:resnet18"),
        (
            "config.MODEL.TRUNK.NAME=torchvision:resnet20",
            r"torchvision .* does not have.*Did you mean torchvision:",
        ),
        ("config.CLUSTERFIT.TEACHER.MODEL=timm:resnt18", r"TEACHER\.MODEL: found timm:resnt18.*timm:resnet18"),
        (
            "config.CLUSTERFIT.TEACHER.MODEL=resnet18",
            r"TEACHER\.MODEL: found 'resnet18'; allowed: a value of",
        ),
    ],
)
def test_a_name_that_no_library_has_is_refused_at_once(saved, images, tmp_path, mistake, message):
    with pytest.raises(ClusterFitError, match=message):
        compose([*on_cpu(images, tmp_path), f"config.CLUSTERFIT.TEACHER.WEIGHTS={saved.weights}", mistake])
    assert not (tmp_path / "clusterfit").exists()


def test_a_repository_of_a_teacher_needs_the_setting_that_trusts(saved, images, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/hubconf.py").write_text("from torchvision.models import resnet18\n")
    overrides = [*on_cpu(images, tmp_path / "run"), *teacher_of(saved)[1:]]
    overrides.append(f"config.CLUSTERFIT.TEACHER.MODEL=hub:{tmp_path}/code")
    with pytest.raises(ConfigError, match=r"TEACHER\.MODEL.*runs the code of.*set config\.CLUSTERFIT\.TEACHER\.TRUST"):
        compose(overrides)
    compose([*overrides, "config.CLUSTERFIT.TEACHER.TRUST_WEIGHTS=true"])


def test_poolings_of_tokens_are_refused_for_other_trunks(saved, images, tmp_path, teacher):
    config = compose(on_cpu(images, tmp_path))[2]
    spec = evaluated_spec(config, "", "class_token", OF_WEIGHTS_INIT)
    with pytest.raises(
        ClusterFitError, match=r"POOLING: found 'class_token' for the trunk resnet, which gives no tokens"
    ):
        build_encoder(spec, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEACHERS)
def test_features_of_a_run_are_those_of_the_library(kind, run_command, images, tmp_path):
    """Three settings choose the teacher and what is done with it."""
    saved = TEACHERS[kind](tmp_path)
    overrides = [*on_cpu(images, tmp_path / "run"), *teacher_of(saved), "engine_name=clusterfit_extract"]
    overrides.append("config.CLUSTERFIT.COMPUTE.PRECISION=float32")
    result = run_command(*overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    store = FeatureStore.open(tmp_path / "run/clusterfit/features/train")
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # of the class folders
    expected = saved.features([pictures(8)[number] for number in order]).numpy()
    np.testing.assert_allclose(store.read(0, 8), expected, rtol=0, atol=1e-5)
    assert store.inputs["transforms"] == load(saved.name).transforms


@pytest.mark.slow
def test_a_student_by_name_is_trained_scored_and_labels_other_data(run_command, saved, images, tmp_path):
    overrides = [*on_cpu(images, tmp_path / "run"), *teacher_of(saved), *training(), ONE_RATE]
    overrides.append("config.MODEL.TRUNK.NAME=torchvision:resnet18")
    result = run_command(*overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "run/checkpoint.torch"
    state = trunk_of(torch.load(checkpoint, weights_only=True))
    start = load("torchvision:resnet18").module.state_dict()
    assert {name.removeprefix("network.") for name in state} == {*start}

    scored = run_command(
        "config=clusterfit/transfer",
        "config.MACHINE.DEVICE=cpu",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        *(f"config.DATA.{split}.DATA_PATHS=[{images}]" for split in ("TRAIN", "TEST")),
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={checkpoint}",
        "config.TRANSFER.PROTOCOLS=[knn]",
        "config.TRANSFER.KNN.NUM_NEIGHBORS=1",
        f"config.CHECKPOINT.DIR={tmp_path}/transfer",
        cwd=tmp_path,
    )
    assert scored.returncode == 0, scored.stderr
    assert rows_in(tmp_path / "transfer")[0]["value"] == 1.0

    assigned = [
        "config=clusterfit/assign",
        "config.MACHINE.DEVICE=cpu",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        f"config.CLUSTERFIT.ASSIGN.CODEBOOK={tmp_path}/run/clusterfit/codebook",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.CHECKPOINT.DIR={tmp_path}/new",
    ]
    result = run_command(*assigned, f"config.CLUSTERFIT.TEACHER.WEIGHTS={saved.weights}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    labels = [np.load(tmp_path / f"{run}/clusterfit/labels/train/labels.npy") for run in ("run", "new")]
    np.testing.assert_array_equal(*labels)

    other = of_timm("resnet10t", tmp_path)
    state = safetensors.torch.load_file(other.weights)
    safetensors.torch.save_file({**state, "bn1.bias": state["bn1.bias"] + 1}, other.weights)
    result = run_command(*overrides, *teacher_of(other)[1:], cwd=tmp_path)
    assert result.returncode == 2
    assert "weights_sha256" in result.stderr


@pytest.mark.slow
def test_a_vision_transformer_is_trained_by_its_recipe(run_command, saved, images, tmp_path):
    overrides = [*on_cpu(images, tmp_path / "run", "clusterfit/student_vit"), *teacher_of(saved), *training(epochs=2)]
    overrides += [
        "config.MODEL.TRUNK.NAME=timm:vit_tiny_patch16_224",
        "+config.MODEL.TRUNK.LIBRARY_NETWORK.ARGUMENTS={img_size:32,depth:2,embed_dim:48,num_heads:2}",
        "config.OPTIMIZER.layer_decay=0.75",
    ]
    result = run_command(*overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "run"
    checkpoint = torch.load(run / "checkpoint.torch", weights_only=True)["classy_state_dict"]
    trained = checkpoint["base_model"]["model"]["trunk"]
    averaged = safetensors.torch.load_file(run / "model_ema.safetensors")
    assert averaged.keys() == checkpoint["hooks"]["EmaHook"]["ema"].keys()
    assert {name.removeprefix("trunk.") for name in averaged if name.startswith("trunk.")} == {*trained}
    name = "network.blocks.1.attn.qkv.weight"
    assert not torch.equal(averaged[f"trunk.{name}"], trained[name])
    assert checkpoint["hooks"]["EmaHook"]["num_steps"] == 4
    groups = checkpoint["optimizer"]["optim"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}
    assert max(group["lr"] for group in groups) / min(group["lr"] for group in groups) == pytest.approx(0.75**-3)
    ours = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ours)
    own.load_state_dict({name.removeprefix("network."): tensor for name, tensor in trained.items()}, strict=True)
    scored = ["config=clusterfit/transfer", "config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path}/scored"]
    found = compose([*scored, f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={run}/model_ema.safetensors"])[2]
    assert found.MODEL.TRUNK.LIBRARY_NETWORK.ARGUMENTS.depth == 2
    spec = evaluated_spec(found, "", "avg", OF_WEIGHTS_INIT)
    network = load("timm:vit_tiny_patch16_224", str(run / "model_ema.safetensors"), arguments=ours)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(build_encoder(spec, torch.device("cpu"))(images), network.encoder()(images))
    assert torch.equal(network.module.blocks[1].attn.qkv.weight, averaged[f"trunk.{name}"])


def test_a_block_of_a_recipe_is_nothing_to_a_trunk_of_vissls(images, tmp_path):
    overrides = [*on_cpu(images, tmp_path, "clusterfit/student_vit"), "config.MODEL.TRUNK.NAME=vision_transformer"]
    assert "LIBRARY_NETWORK" not in AttrDict(compose(overrides)[2].MODEL.TRUNK)


def test_a_network_that_drops_no_paths_trains_without(images, tmp_path, capsys):
    overrides = [*on_cpu(images, tmp_path, "clusterfit/student_vit"), "config.MODEL.TRUNK.NAME=torchvision:vit_b_16"]
    config = compose([*overrides, "+config.MODEL.TRUNK.LIBRARY_NETWORK.ARGUMENTS={image_size:32}"])[2]
    assert config.MODEL.TRUNK.LIBRARY_NETWORK.ARGUMENTS == {"image_size": 32}
    assert "DROP_PATH: 0.1 has no effect, as torchvision:vit_b_16 drops no paths." in capsys.readouterr().out
