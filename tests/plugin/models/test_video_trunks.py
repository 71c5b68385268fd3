"""The trunks for clips are their publishers' networks: the same tensors by the same names, and the same outputs."""

import copy

import pytest
import torch
from classy_vision.generic.util import save_checkpoint
from classy_vision.heads import build_head
from classy_vision.models import build_model as build_classy_model
from torch import nn
from torchvision.models import video
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet
from vissl.config import AttrDict
from vissl.models import build_model
from vissl.models.trunks import get_model_trunk

from vissl_clusterfit.errors import ConfigError, TeacherError
from vissl_clusterfit.plugin.models.encoder import EncoderSpec, build_encoder, trunk_layers
from vissl_clusterfit.plugin.models.head import trunk_width
from vissl_clusterfit.plugin.models.video_trunks import VIDEO_TRUNKS

CPU = torch.device("cpu")


def r2plus1d_34() -> VideoResNet:
    """As the converters of VMZ's networks build it (moabitcoin/ig65m-pytorch): torchvision's, with three exceptions."""
    network = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem, num_classes=359)
    for layer, planes, midplanes in (
        (network.layer2, 128, 288),
        (network.layer3, 256, 576),
        (network.layer4, 512, 1152),
    ):
        layer[0].conv2[0] = Conv2Plus1D(planes, planes, midplanes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return network


# The model block of Classy Vision's configs/kinetics400/postactivated_i3d50.json, and of configs/ucf101/r3d34.json.
I3D50 = {
    "name": "resnext3d",
    "frames_per_clip": 8,
    "input_planes": 3,
    "clip_crop_size": 224,
    "skip_transformation_type": "postactivated_shortcut",
    "residual_transformation_type": "postactivated_bottleneck_transformation",
    "num_blocks": [3, 4, 6, 3],
    "stem_name": "resnext3d_stem",
    "stem_planes": 64,
    "stem_temporal_kernel": 5,
    "stem_spatial_kernel": 7,
    "stem_maxpool": True,
    "stage_planes": 256,
    "stage_temporal_kernel_basis": [[3], [3, 1], [3, 1], [1, 3]],
    "temporal_conv_1x1": [True, True, True, True],
    "stage_temporal_stride": [1, 1, 1, 1],
    "stage_spatial_stride": [1, 2, 2, 2],
    "num_groups": 1,
    "width_per_group": 64,
    "zero_init_residual_transform": True,
}
R3D34 = {
    **I3D50,
    "frames_per_clip": 32,
    "clip_crop_size": 112,
    "residual_transformation_type": "basic_transformation",
    "stem_temporal_kernel": 3,
    "stem_maxpool": False,
    "stage_planes": 64,
    "stage_temporal_kernel_basis": [[3], [3], [3], [3]],
    "temporal_conv_1x1": [False, False, False, False],
    "stage_temporal_stride": [1, 2, 2, 2],
    "zero_init_residual_transform": False,
}


def classy(config: dict, pool_size: list[int], width: int, block: str):
    def build():
        network = build_classy_model(copy.deepcopy(config))
        head = {"name": "fully_convolutional_linear", "unique_id": "default_head", "pool_size": pool_size}
        head |= {"activation_func": "softmax", "num_classes": 400, "in_plane": width, "use_dropout": False}
        network.set_heads({block: [build_head(head)]})
        return network

    return build


# Trunk, the network as its publisher builds it, the clip (T, H, W), TRUNK.VIDEO, its last layers.
TORCHVISION = {
    "r2plus1d_18": (video.r2plus1d_18, (8, 64, 64), {}, lambda network: network.fc),
    "r2plus1d_34": (r2plus1d_34, (8, 64, 64), {}, lambda network: network.fc),
    "r3d_18": (video.r3d_18, (8, 64, 64), {}, lambda network: network.fc),
    "mc3_18": (video.mc3_18, (8, 64, 64), {}, lambda network: network.fc),
    "s3d": (video.s3d, (24, 224, 224), {}, lambda network: network.classifier),
    "mvit_v1_b": (video.mvit_v1_b, (16, 224, 224), {}, lambda network: network.head),
    "mvit_v2_s": (video.mvit_v2_s, (16, 224, 224), {}, lambda network: network.head),
}
CLASSY = {
    "i3d50": (classy(I3D50, [8, 7, 7], 2048, "pathway0-stage4-block2"), (8, 224, 224), {}),
    "r3d34": (classy(R3D34, [1, 4, 4], 512, "pathway0-stage4-block2"), (8, 64, 64), {"RESNEXT3D": R3D34}),
}
TINY = {"WIDTH": 8, "CLIP_LENGTH": 4, "CROP_SIZE": 32}


def with_statistics(network: nn.Module) -> nn.Module:
    """Normalisation that would be missed if it were left out."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def model(model_config):
    def of(name: str, **settings) -> AttrDict:
        return AttrDict({**model_config, "TRUNK": {"NAME": name, "VIDEO": settings}})

    return of


def encode(model: AttrDict, clips: torch.Tensor, weights=None, layer: str = "", pooling: str = "avg") -> torch.Tensor:
    spec = EncoderSpec(model, weights and str(weights), "", trust_weights=False, layer=layer, pooling=pooling)
    with torch.inference_mode():
        return build_encoder(spec, CPU)(clips)


def test_every_trunk_is_tested_against_its_publishers():
    assert {*TORCHVISION, "resnext3d"} == VIDEO_TRUNKS.keys()


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_plain_state_dict_arrives_whole_and_gives_the_publishers_output(name, model, tmp_path):
    build, shape, settings, classifier = TORCHVISION[name]
    torch.manual_seed(0)
    network = with_statistics(build())
    torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    clips = torch.randn(1, 3, *shape)
    features = encode(model(name, **settings), clips, tmp_path / f"{name}.pth")
    with torch.inference_mode():
        last = features[:, :, None, None, None] if name == "s3d" else features
        torch.testing.assert_close(classifier(network)(last).flatten(1), network(clips), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_it_has_the_tensors_of_its_publishers_and_no_others(name, model):
    with torch.device("meta"):
        published = TORCHVISION[name][0]().state_dict()
        trunk = get_model_trunk(name)(model(name), name).state_dict()
    classifiers = {tensor for tensor in published if tensor.split(".")[0] in ("fc", "classifier", "head")}
    assert {tensor.removeprefix("_feature_blocks."): value.shape for tensor, value in trunk.items()} == {
        tensor: value.shape for tensor, value in published.items() if tensor not in classifiers
    }


@pytest.mark.parametrize("name", CLASSY)
def test_a_checkpoint_of_classy_visions_arrives_whole_and_gives_its_output(name, model, tmp_path):
    build, shape, settings = CLASSY[name]
    torch.manual_seed(0)
    network = with_statistics(build())
    state = {"classy_state_dict": {"base_model": network.get_classy_state()}}
    save_checkpoint(str(tmp_path), state, checkpoint_file="checkpoint.torch")
    clips = torch.randn(1, 3, *shape)
    features = encode(model("resnext3d", **settings), clips, tmp_path / "checkpoint.torch")
    [head] = network._heads["pathway0-stage4-block2"].values()
    with torch.inference_mode():
        torch.testing.assert_close(head.head_fcl.projection(features).softmax(1), network(clips), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fault, told",
    [("missing", "missing _feature_blocks.layer1.0.conv1.0.3.weight"), ("other shape", "of another shape")],
)
def test_a_file_that_fits_in_part_is_refused(fault, told, model, tmp_path):
    state = get_model_trunk("r2plus1d_18")(model("r2plus1d_18", WIDTH=8), "r2plus1d_18").state_dict()
    if fault == "missing":
        del state["_feature_blocks.layer1.0.conv1.0.3.weight"]
    else:
        state["_feature_blocks.layer1.0.conv1.0.3.weight"] = torch.zeros(8, 7, 3, 1, 1)
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(TeacherError, match=told):
        encode(model("r2plus1d_18", WIDTH=8), torch.rand(1, 3, 4, 32, 32), tmp_path / "part.pth")


def test_weights_of_torchvisions_r2plus1d_do_not_pass_for_those_of_the_papers(model, tmp_path):
    """Both have 34 layers; they differ in the planes between of three convolutions."""
    torch.save(VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        TeacherError, match=r"of another shape _feature_blocks.layer2.0\.conv2\.0\.0\.weight \(230, .*\) for \(288,"
    ):
        encode(model("r2plus1d_34"), torch.rand(1, 3, 4, 32, 32), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18", "mvit_v1_b", "mvit_v2_s"])
def test_a_tiny_variant_has_the_layers_and_shapes_of_the_large_one(name, model):
    block = model(name, **TINY)
    trunk = get_model_trunk(name)(block, name).eval()
    layers = trunk_layers(trunk)
    assert layers[:5] == ["conv1", "res2", "res3", "res4", "res5"]
    with torch.inference_mode():
        outputs = trunk(torch.rand(2, 3, 4, 32, 32), layers)
    widths = [output.shape[1] for output in outputs]
    doubling = [16, 32, 64, 64] if name == "mvit_v1_b" else [8, 16, 32, 64]
    assert widths == [8, *doubling, *[64] * (len(layers) - 5)]
    assert [output.ndim for output in outputs[:5]] == [5] * 5
    assert trunk_width(block) == outputs[-1].shape[1] == 64
    assert outputs[-1].ndim == 2
    assert sum(parameter.numel() for parameter in trunk.parameters()) < 2e6


@pytest.mark.parametrize(
    "pooling, pool", [("avg", lambda maps: maps.mean((2, 3, 4))), ("max", lambda maps: maps.amax((2, 3, 4)))]
)
@pytest.mark.parametrize("name", ["r2plus1d_18", "mvit_v2_s"])
def test_a_layer_is_pooled_over_time_and_space(name, pooling, pool, model):
    clips = torch.rand(2, 3, 4, 32, 32)
    maps = encode(model(name, **TINY), clips, layer="res3", pooling="flatten")
    pooled = encode(model(name, **TINY), clips, layer="res3", pooling=pooling)
    positions = maps.shape[1] // pooled.shape[1]
    assert positions > 1
    torch.testing.assert_close(pooled, pool(maps.reshape(2, pooled.shape[1], positions, 1, 1)))


def test_mvits_maps_leave_the_class_token_out_and_lie_where_their_tokens_were(model):
    """The output at a position of conv1 depends on its own patch alone."""
    trunk = get_model_trunk("mvit_v2_s")(model("mvit_v2_s", **TINY), "mvit_v2_s").eval()
    clips = torch.zeros(1, 3, 4, 32, 32)
    clips[:, :, 2:, 16:, :16] = 1
    with torch.inference_mode():
        [changed], [blank] = trunk(clips, ["conv1"]), trunk(torch.zeros_like(clips), ["conv1"])
    differs = (changed - blank).abs().sum(1)[0]
    assert differs.shape == (2, 8, 8)
    assert differs[1, 5:, :3].min() > 0
    assert differs[:, :3].max() == 0


def test_linear_evaluation_takes_layers_pooled_in_3d(model):
    block = model("r3d_18", **TINY)
    block.FEATURE_EVAL_SETTINGS = AttrDict(
        {
            **block.FEATURE_EVAL_SETTINGS,
            "EVAL_MODE_ON": True,
            "FREEZE_TRUNK_ONLY": True,
            "SHOULD_FLATTEN_FEATS": True,
            "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [
                ["res4", ["AvgPool3d", [[1, 2, 2], 1, 0]]],
                ["res5", ["AdaptiveAvgPool3d", [[1, 1, 1]]]],
            ],
        }
    )
    block.HEAD = AttrDict(
        {**block.HEAD, "PARAMS": [["mlp", {"dims": [288, 3]}], ["eval_mlp", {"in_channels": 64, "dims": [64, 3]}]]}
    )
    network = build_model(block, AttrDict({})).eval()
    clips = torch.rand(2, 3, 4, 32, 32)
    with torch.inference_mode():
        maps = network.trunk.base_model(clips, ["res4", "res5"])
        outputs = network(clips)
        torch.testing.assert_close(outputs[1], network.heads[1](maps[1].mean((2, 3, 4))))
    assert [tuple(output.shape) for output in outputs] == [(2, 3), (2, 3)]


def test_vissl_initialises_a_trunk_from_torchvisions_file(model, tmp_path):
    name = "r2plus1d_18"
    source = get_model_trunk(name)(model(name, WIDTH=8), name)
    published = {name.removeprefix("_feature_blocks."): value for name, value in source.state_dict().items()}
    torch.save({**published, "fc.weight": torch.zeros(400, 64)}, tmp_path / "w.pth")
    block = model(name, WIDTH=8)
    block.HEAD = AttrDict({**block.HEAD, "PARAMS": [["clusterfit_head", {"num_clusters": 4}]]})
    block.WEIGHTS_INIT = AttrDict(
        {
            "PARAMS_FILE": str(tmp_path / "w.pth"),
            "STATE_DICT_KEY_NAME": "",
            "REMOVE_PREFIX": "",
            "APPEND_PREFIX": "trunk._feature_blocks.",
            "SKIP_LAYERS": ["num_batches_tracked"],
        }
    )
    network = build_model(block, AttrDict({}))
    network.init_model_from_weights_params_file(AttrDict({"MODEL": block}), torch.load(tmp_path / "w.pth"))
    for tensor, value in source.state_dict().items():
        torch.testing.assert_close(network.trunk.state_dict()[tensor], value, rtol=0, atol=0)


def test_a_trunk_learns_and_comes_back_from_a_checkpoint(model):
    torch.manual_seed(0)
    block = model("r2plus1d_18", **TINY)
    block.HEAD = AttrDict({**block.HEAD, "PARAMS": [["clusterfit_head", {"num_clusters": 2}]]})
    network = build_model(block, AttrDict({}))
    clips, labels = torch.rand(4, 3, 4, 32, 32), torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(network(clips)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is not None for parameter in network.parameters())
    other = build_model(block, AttrDict({}))
    other.set_classy_state(network.get_classy_state())
    torch.testing.assert_close(other.eval()(clips)[0], network.eval()(clips)[0])


@pytest.mark.parametrize(
    "name, settings, told",
    [
        ("s3d", {"WIDTH": 8}, r"VIDEO\.WIDTH: found 8 for s3d, which has one width; allowed: 0"),
        ("r3d_18", {"WITDH": 8}, r"VIDEO\.WITDH: found an unknown key; .*Did you mean WIDTH"),
        ("mvit_v2_s", {"CLIP_LENGTH": 0}, r"VIDEO\.CLIP_LENGTH: found 0; allowed: at least 1"),
        (
            "resnext3d",
            {"RESNEXT3D": {"num_blocks": [1, 1]}},
            r"RESNEXT3D: found .*num_blocks.*; allowed: the model block",
        ),
        (
            "resnext3d",
            {"RESNEXT3D": {"skip_transformation_type": "none"}},
            r"RESNEXT3D: found .*skip.*; allowed: the model block",
        ),
    ],
)
def test_a_setting_that_fits_no_network_is_told(name, settings, told, model):
    with pytest.raises(ConfigError, match=told):
        get_model_trunk(name)(model(name, **settings), name)


def test_mvit_says_which_clips_it_takes(model):
    with pytest.raises(
        ConfigError, match="CROP_SIZE: found clips of 4 frames of 32 x 48; allowed: 4 frames of 32 x 32"
    ):
        encode(model("mvit_v1_b", **TINY), torch.rand(1, 3, 4, 32, 48))


def test_activation_checkpointing_is_refused(model):
    block = model("r3d_18", **TINY)
    block.ACTIVATION_CHECKPOINTING = AttrDict({**block.ACTIVATION_CHECKPOINTING, "USE_ACTIVATION_CHECKPOINTING": True})
    with pytest.raises(ConfigError, match="USE_ACTIVATION_CHECKPOINTING: found true; allowed: false"):
        get_model_trunk("r3d_18")(block, "r3d_18")
