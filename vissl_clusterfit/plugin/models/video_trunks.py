"""VISSL trunks for clips (B, C, T, H, W): torchvision's video networks, R(2+1)D-34 and Classy Vision's ResNeXt3D.

After ``_feature_blocks.`` their tensors have the names of their publishers' files. Layers have those of VISSL's ResNet:
``conv1`` (the stem), ``res2`` to ``res5``, ``avgpool`` and ``flatten``, maps (B, C, T, H, W) but for the last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import video
from vissl.config import AttrDict
from vissl.models.model_helpers import parse_out_keys_arg, transform_model_input_data_type

from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.models.video_networks import mvit, resnext3d, video_resnet

Step = tuple[str, Callable[[torch.Tensor], torch.Tensor]]

_STAGES = ("conv1", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class VideoTrunkSettings:
    """The block ``config.MODEL.TRUNK.VIDEO``."""

    #: Channels of the stem and of res2 of R(2+1)D, R3D, MC3 and MViT; 0 is as published, 64 and 96.
    width: int = setting(0, at_least=0)
    #: Frames of a clip, and height and width of a frame, which MViT is built for; as published, 16 and 224.
    clip_length: int = setting(16, at_least=1)
    crop_size: int = setting(224, at_least=32)
    #: The ``model`` block of a config of Classy Vision's, for ``resnext3d``; what is left out is an inflated ResNet-50.
    resnext3d: dict = setting({})


class VideoTrunk(nn.Module, ABC):
    """What the trunks share: the modules of a network under their own names, and the outputs of layers asked for.

    Args:
        model_config: VISSL's MODEL block.
        network: whose modules the trunk takes, all but those named in ``left_out`` (its classifier).

    Attributes:
        clip_shape: C, T, H and W of the clips that dry runs use.
    """

    all_feat_names: tuple[str, ...] = (*_STAGES, "avgpool", "flatten")

    def __init__(self, model_config: AttrDict, network: nn.Module, left_out: tuple[str, ...]) -> None:
        super().__init__()
        if model_config.ACTIVATION_CHECKPOINTING.USE_ACTIVATION_CHECKPOINTING:
            name = "config.MODEL.ACTIVATION_CHECKPOINTING.USE_ACTIVATION_CHECKPOINTING"
            raise ConfigError(problem(name, found="true", allowed="false for trunks of video"))
        if model_config.INPUT_TYPE not in ("rgb", "bgr"):
            raise ConfigError(problem("config.MODEL.INPUT_TYPE", found=model_config.INPUT_TYPE, allowed="rgb | bgr"))
        self._input_type = model_config.INPUT_TYPE
        settings = trunk_settings(model_config)
        self.clip_shape = (3, settings.clip_length, settings.crop_size, settings.crop_size)
        # VISSL takes foreign weights only under this name (APPEND_PREFIX: trunk._feature_blocks.).
        self._feature_blocks = nn.ModuleDict({k: v for k, v in network.named_children() if k not in left_out})

    @abstractmethod
    def steps(self) -> Iterator[Step]:
        """Each layer in order: its name, and the function from the output of the one before."""

    def forward(self, clips: torch.Tensor, out_feat_keys: list[str] | None = None) -> list[torch.Tensor]:
        """The outputs of the layers asked for, of clips (B, 3, T, H, W); without any, the trunk's own, (B, D)."""
        keys, last = parse_out_keys_arg(out_feat_keys, list(self.all_feat_names))
        features = transform_model_input_data_type(clips, self._input_type)
        found = {}
        for name, step in self.steps():
            features = step(features)
            if name in keys:
                found[name] = features
            if name == self.all_feat_names[last]:
                break
        return [found[key] for key in keys]


def trunk_settings(model_config: Mapping[str, Any]) -> VideoTrunkSettings:
    """Reads ``config.MODEL.TRUNK.VIDEO``.

    Raises:
        ConfigError: naming every unknown key and bad value.
    """
    return read_settings(VideoTrunkSettings, model_config["TRUNK"].get("VIDEO", {}), "config.MODEL.TRUNK.VIDEO")


def _require_published_width(settings: VideoTrunkSettings, model_name: str) -> None:
    if settings.width:
        found = f"{settings.width} for {model_name}, which has one width"
        raise ConfigError(problem("config.MODEL.TRUNK.VIDEO.WIDTH", found=found, allowed="0"))


def _mean_of_positions(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean(dim=(2, 3, 4), keepdim=True)


class VideoResNetTrunk(VideoTrunk):
    """R(2+1)D, R3D and MC3, as ``<kind>_<depth>``."""

    def __init__(self, model_config: AttrDict, model_name: str) -> None:
        kind, depth = model_name.split("_")
        network = video_resnet(kind, int(depth), trunk_settings(model_config).width)
        super().__init__(model_config, network, left_out=("fc",))

    def steps(self) -> Iterator[Step]:
        """Stem, four stages, the mean of all positions."""
        stages = (self._feature_blocks[name] for name in ("stem", "layer1", "layer2", "layer3", "layer4"))
        yield from zip(_STAGES, stages, strict=True)
        yield from (("avgpool", _mean_of_positions), ("flatten", nn.Flatten()))


class S3DTrunk(VideoTrunk):
    """torchvision's S3D. Its stages are what is between its five halvings of the frame."""

    _ENDS = (1, 4, 7, 13, 16)

    def __init__(self, model_config: AttrDict, model_name: str) -> None:
        _require_published_width(trunk_settings(model_config), model_name)
        super().__init__(model_config, video.s3d(), left_out=("classifier",))

    def steps(self) -> Iterator[Step]:
        """The layers of ``features`` by stages; then its pooling, and the mean of what that leaves."""
        begin = 0
        for name, end in zip(_STAGES, self._ENDS, strict=True):
            yield name, self._feature_blocks.features[begin:end]
            begin = end
        yield from (("avgpool", self._pooled), ("flatten", nn.Flatten()))

    def _pooled(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean of the means over 2 x 7 x 7 positions, as in torchvision; smaller maps are averaged whole."""
        kernel = [
            min(size, of) for size, of in zip(self._feature_blocks.avgpool.kernel_size, maps.shape[2:], strict=True)
        ]
        return _mean_of_positions(F.avg_pool3d(maps, kernel, stride=1))


class ResNeXt3DTrunk(VideoTrunk):
    """Classy Vision's ResNeXt3D with four stages; ``TRUNK.VIDEO.RESNEXT3D`` is its ``model`` block."""

    def __init__(self, model_config: AttrDict, model_name: str) -> None:
        settings = trunk_settings(model_config)
        _require_published_width(settings, model_name)
        try:
            network = resnext3d(settings.resnext3d)
            if len(network.stages) != 4:
                raise AssertionError(f"{len(network.stages)} stages, where there must be 4")
        except (AssertionError, IndexError, KeyError, TypeError) as error:
            allowed = "the model block of a config of Classy Vision's for resnext3d"
            name = "config.MODEL.TRUNK.VIDEO.RESNEXT3D"
            raise ConfigError(problem(name, found=f"{settings.resnext3d} ({error})", allowed=allowed)) from None
        super().__init__(model_config, network, left_out=("_heads",))

    def steps(self) -> Iterator[Step]:
        """Stem and stages, which take and give one tensor for each pathway, of which there is one."""
        modules = (self._feature_blocks.stem, *self._feature_blocks.stages)
        for name, module in zip(_STAGES, modules, strict=True):
            yield name, lambda features, module=module: module([features])[0]
        yield from (("avgpool", _mean_of_positions), ("flatten", nn.Flatten()))


class MViTTrunk(VideoTrunk):
    """torchvision's MViT, for clips of ``TRUNK.VIDEO.CLIP_LENGTH`` frames of ``CROP_SIZE`` pixels.

    Its stages end before each halving of the frame; their maps leave the class token out. ``lastCLS`` is that token
    after the last block, normalised, as VISSL's vision transformers name it.
    """

    all_feat_names = (*_STAGES, "lastCLS")

    def __init__(self, model_config: AttrDict, model_name: str) -> None:
        settings = trunk_settings(model_config)
        version = {"mvit_v1_b": 1, "mvit_v2_s": 2}[model_name]
        network = mvit(version, settings.clip_length, settings.crop_size, settings.width)
        super().__init__(model_config, network, left_out=("head",))

    def forward(self, clips: torch.Tensor, out_feat_keys: list[str] | None = None) -> list[torch.Tensor]:
        """As in the other trunks, of clips (B, 3, T, H, W) of one size.

        Raises:
            ConfigError: they have another.
        """
        if tuple(clips.shape[1:]) != self.clip_shape:
            found = "clips of {1} frames of {2} x {3}".format(*clips.shape[1:])
            allowed = "{1} frames of {2} x {3}, for which MViT was built".format(*self.clip_shape)
            raise ConfigError(
                problem("config.MODEL.TRUNK.VIDEO.CLIP_LENGTH and CROP_SIZE", found=found, allowed=allowed)
            )
        return super().forward(clips, out_feat_keys)

    def steps(self) -> Iterator[Step]:
        """Patches; the blocks by stages, tokens kept aside for the next one; the class token."""
        blocks = self._feature_blocks
        tokens: torch.Tensor
        size: tuple[int, int, int] = (blocks.pos_encoding.temporal_size, *blocks.pos_encoding.spatial_size)

        def patches(clips: torch.Tensor) -> torch.Tensor:
            nonlocal tokens
            maps = blocks.conv_proj(clips)
            tokens = blocks.pos_encoding(maps.flatten(2).transpose(1, 2))
            return maps

        def stage(of_it: list[nn.Module]) -> Callable[[torch.Tensor], torch.Tensor]:
            def run(_: torch.Tensor) -> torch.Tensor:
                nonlocal tokens, size
                for block in of_it:
                    tokens, size = block(tokens, size)
                return tokens[:, 1:].transpose(1, 2).unflatten(2, size)

            return run

        yield "conv1", patches
        for name, of_it in zip(_STAGES[1:], self._blocks_by_stage(), strict=True):
            yield name, stage(of_it)
        yield "lastCLS", lambda _: blocks.norm(tokens)[:, 0]

    def _blocks_by_stage(self) -> list[list[nn.Module]]:
        stages: list[list[nn.Module]] = [[]]
        for block in self._feature_blocks.blocks:
            if block.pool_skip is not None:  # it halves the frame
                stages.append([])
            stages[-1].append(block)
        return stages


#: Every trunk of this module, by the name that it has in ``config.MODEL.TRUNK.NAME``.
VIDEO_TRUNKS: dict[str, type[VideoTrunk]] = {
    **dict.fromkeys(("r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18"), VideoResNetTrunk),
    "s3d": S3DTrunk,
    **dict.fromkeys(("mvit_v1_b", "mvit_v2_s"), MViTTrunk),
    "resnext3d": ResNeXt3DTrunk,
}
