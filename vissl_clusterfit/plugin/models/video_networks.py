"""Networks for clips, of the parts of torchvision and Classy Vision: also narrow ones, and R(2+1)D-34.

torchvision's functions build each of its networks in one size. All tensors have the names of their publishers' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from classy_vision.models import build_model
from torch import nn
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.resnet import (
    BasicBlock,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    VideoResNet,
)

_FULL_WIDTH = 64

Convolution = type[Conv2Plus1D | Conv3DSimple | Conv3DNoTemporal]


class Conv2Plus1DOfItsOwnPlanes(Conv2Plus1D):
    """A (2+1)D convolution with as many parameters as the 3-D one that it stands for (Tran et al. 2018, section 3.5).

    torchvision computes the planes in between once per block, of the block's own input. The networks that were trained
    on IG-65M, R(2+1)D-34 among them, have them of the input of each convolution, which differs in the first block of
    each stage (VMZ's issue 89).
    """

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        midplanes = (in_planes * out_planes * 3 * 3 * 3) // (in_planes * 3 * 3 + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


class ScaledVideoResNet(VideoResNet):
    """torchvision's ``VideoResNet`` without a classifier, ``width`` planes wide in its first stage instead of 64."""

    def __init__(
        self, conv_makers: Sequence[Convolution], layers: Sequence[int], stem: Callable[[], nn.Module], width: int
    ) -> None:
        self._width = width
        super().__init__(BasicBlock, conv_makers, list(layers), stem)
        self.fc = nn.Identity()

    def _make_layer(
        self, block: type[BasicBlock], conv_builder: Convolution, planes: int, blocks: int, stride: int = 1
    ) -> nn.Sequential:
        if planes == _FULL_WIDTH:  # the first stage: what comes from the stem is as wide
            self.inplanes = self._width
        return super()._make_layer(block, conv_builder, planes * self._width // _FULL_WIDTH, blocks, stride)


def video_resnet(kind: str, depth: int, width: int = 0) -> VideoResNet:
    """An R(2+1)D, R3D or MC3 network.

    Args:
        kind: ``r2plus1d``, ``r3d`` or ``mc3``.
        depth: 18 as torchvision has it; 34 as the R(2+1)D of VMZ, which ClusterFit's teacher is.
        width: planes of the stem and of the first stage, 64 where it is 0; each of the next three has twice as many.
    """
    width = width or _FULL_WIDTH
    convolution = Conv2Plus1DOfItsOwnPlanes if depth == 34 else Conv2Plus1D
    conv_makers: dict[str, list[Convolution]] = {
        "r2plus1d": [convolution] * 4,
        "r3d": [Conv3DSimple] * 4,
        "mc3": [Conv3DSimple] + [Conv3DNoTemporal] * 3,
    }
    stem = _r2plus1d_stem if kind == "r2plus1d" else _basic_stem
    layers = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}[depth]
    network = ScaledVideoResNet(conv_makers[kind], layers, lambda: stem(width), width)
    if depth == 34:
        # Caffe2's. Its momentum of 0.9 weighs what was seen before, and is PyTorch's default of 0.1.
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = 1e-3
    return network


def _basic_stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, width, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _r2plus1d_stem(width: int) -> nn.Sequential:
    midplanes = 45 * width // _FULL_WIDTH
    return nn.Sequential(
        nn.Conv3d(3, midplanes, kernel_size=(1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(midplanes),
        nn.ReLU(inplace=True),
        nn.Conv3d(midplanes, width, kernel_size=(3, 1, 1), stride=(1, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def mvit(version: int, clip_length: int, crop_size: int, width: int = 0) -> MViT:
    """MViT-B of the first version or MViT-S of the second, as torchvision's ``mvit_v1_b`` and ``mvit_v2_s``.

    Args:
        version: 1 or 2.
        clip_length: frames of the clips that it takes; 16 as published.
        crop_size: height and width of a frame; 224 as published.
        width: channels of the first stage, 96 where it is 0; each of the next three has twice as many.
    """
    depths = (1, 2, 11, 2)
    stages = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
    channels = [(width or 96) * 2**stage for stage in stages]
    kernel, blocks = [3, 3, 3], []
    for number, stage in enumerate(stages):
        halves = number > 0 and stage != stages[number - 1]
        if version == 1:  # channels are doubled by the last block of a stage, and queries pooled where they are fewer
            before, after = channels[number], channels[min(number + 1, len(stages) - 1)]
            kernel_q, stride_q = (kernel, [1, 2, 2]) if halves else ([], [])
        else:
            before, after = channels[max(number - 1, 0)], channels[number]
            kernel_q, stride_q = kernel, [1, 2, 2] if halves else [1, 1, 1]
        stride_kv = [1, 8 // 2**stage, 8 // 2**stage]
        blocks.append(MSBlockConfig(2**stage, before, after, kernel_q, kernel, stride_q, stride_kv))
    return MViT(
        spatial_size=(crop_size, crop_size),
        temporal_size=clip_length,
        block_setting=blocks,
        residual_pool=version == 2,
        residual_with_cls_embed=False,
        rel_pos_embed=version == 2,
        proj_after_attn=version == 2,
        stochastic_depth_prob=0.2,
    )


def resnext3d(config: Mapping[str, Any]) -> nn.Module:
    """Classy Vision's ResNeXt3D.

    Args:
        config: what its own configs have under ``model``, ``heads`` aside; what is left out is that of
            ``kinetics400/postactivated_i3d50``, an inflated ResNet-50.
    """
    inflated_resnet50 = {
        "name": "resnext3d",
        "input_planes": 3,
        "frames_per_clip": 8,
        "clip_crop_size": 224,
        "skip_transformation_type": "postactivated_shortcut",
        "residual_transformation_type": "postactivated_bottleneck_transformation",
        "num_blocks": [3, 4, 6, 3],
        "stem_temporal_kernel": 5,
        "stem_maxpool": True,
        "stage_temporal_kernel_basis": [[3], [3, 1], [3, 1], [1, 3]],
        "temporal_conv_1x1": [True, True, True, True],
        "stage_temporal_stride": [1, 1, 1, 1],
        "zero_init_residual_transform": True,
    }
    return build_model({**inflated_resnet50, **{key: value for key, value in config.items() if key != "heads"}})
