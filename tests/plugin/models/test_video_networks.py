"""The trunks for clips are their publishers' networks: the same tensors by the same names, and the same outputs."""

import copy

import pytest
import torch
from classy_vision.generic.util import save_checkpoint
from classy_vision.heads import build_head
from classy_vision.models import build_model as build_classy_model
from clip_encoding import encode
from torch import nn
from torchvision.models import video
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet
from vissl.models.trunks import get_model_trunk

from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.plugin.models.video_trunks import VIDEO_TRUNKS


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


def with_statistics(network: nn.Module) -> nn.Module:
    """Normalisation that would be missed if it were left out."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def test_every_trunk_is_tested_against_its_publishers():
    assert {*TORCHVISION, "resnext3d"} == VIDEO_TRUNKS.keys()


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_plain_state_dict_arrives_whole_and_gives_the_publishers_output(name, video_model, tmp_path):
    build, shape, settings, classifier = TORCHVISION[name]
    torch.manual_seed(0)
    network = with_statistics(build())
    torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    clips = torch.randn(1, 3, *shape)
    features = encode(video_model(name, **settings), clips, tmp_path / f"{name}.pth")
    with torch.inference_mode():
        last = features[:, :, None, None, None] if name == "s3d" else features
        torch.testing.assert_close(classifier(network)(last).flatten(1), network(clips), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_it_has_the_tensors_of_its_publishers_and_no_others(name, video_model):
    with torch.device("meta"):
        published = TORCHVISION[name][0]().state_dict()
        trunk = get_model_trunk(name)(video_model(name), name).state_dict()
    classifiers = {tensor for tensor in published if tensor.split(".")[0] in ("fc", "classifier", "head")}
    assert {tensor.removeprefix("_feature_blocks."): value.shape for tensor, value in trunk.items()} == {
        tensor: value.shape for tensor, value in published.items() if tensor not in classifiers
    }


@pytest.mark.parametrize("name", CLASSY)
def test_a_checkpoint_of_classy_visions_arrives_whole_and_gives_its_output(name, video_model, tmp_path):
    build, shape, settings = CLASSY[name]
    torch.manual_seed(0)
    network = with_statistics(build())
    state = {"classy_state_dict": {"base_model": network.get_classy_state()}}
    save_checkpoint(str(tmp_path), state, checkpoint_file="checkpoint.torch")
    clips = torch.randn(1, 3, *shape)
    features = encode(video_model("resnext3d", **settings), clips, tmp_path / "checkpoint.torch")
    [head] = network._heads["pathway0-stage4-block2"].values()
    with torch.inference_mode():
        torch.testing.assert_close(head.head_fcl.projection(features).softmax(1), network(clips), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fault, told",
    [("missing", "missing _feature_blocks.layer1.0.conv1.0.3.weight"), ("other shape", "of another shape")],
)
def test_a_file_that_fits_in_part_is_refused(fault, told, video_model, tmp_path):
    state = get_model_trunk("r2plus1d_18")(video_model("r2plus1d_18", WIDTH=8), "r2plus1d_18").state_dict()
    if fault == "missing":
        del state["_feature_blocks.layer1.0.conv1.0.3.weight"]
    else:
        state["_feature_blocks.layer1.0.conv1.0.3.weight"] = torch.zeros(8, 7, 3, 1, 1)
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(TeacherError, match=told):
        encode(video_model("r2plus1d_18", WIDTH=8), torch.rand(1, 3, 4, 32, 32), tmp_path / "part.pth")


def test_weights_of_torchvisions_r2plus1d_do_not_pass_for_those_of_the_papers(video_model, tmp_path):
    """Both have 34 layers; they differ in the planes between of three convolutions."""
    torch.save(VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        TeacherError, match=r"of another shape _feature_blocks.layer2.0\.conv2\.0\.0\.weight \(230, .*\) for \(288,"
    ):
        encode(video_model("r2plus1d_34"), torch.rand(1, 3, 4, 32, 32), tmp_path / "w.pth")
