"""VISSL's ResNet, ResNeXt and RegNet under the names of torchvision, wide ones under those of transformers."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from vissl_clusterfit.plugin.export.counterparts import Call, Counterpart, State

_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
#: The RegNets of Classy Vision that torchvision has under the same name; it rounds the widths of others otherwise.
_PUBLISHED = (
    *(f"regnet_x_{size}" for size in ("800mf", "1.6gf", "3.2gf", "8gf", "16gf", "32gf")),
    *(f"regnet_y_{size}" for size in ("400mf", "1.6gf", "3.2gf", "16gf", "32gf", "128gf")),
)
_REGNET_NAMES = (
    (r"\.stem\.stem\.", ".stem."),
    (r"(block\d+-\d+)\.proj\.", r"\1.proj.0."),
    (r"(block\d+-\d+)\.bn\.", r"\1.proj.1."),
    (r"\.f\.c\.", ".f.c.0."),
    (r"\.f\.final_bn\.", ".f.c.1."),
    (r"\.se\.excitation\.0\.", ".se.fc1."),
    (r"\.se\.excitation\.2\.", ".se.fc2."),
)


def resnet(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """VISSL's trunk ``resnet`` in torchvision or transformers; as text, why neither has it."""
    settings = model["TRUNK"]["RESNETS"]
    if model["INPUT_TYPE"] == "lab":
        return "its images are the lightness of Lab colours, one channel"
    if settings["NORM"] != "BatchNorm":
        return f"RESNETS.NORM={settings['NORM']}, and other libraries have BatchNorm"
    if settings.get("STANDARDIZE_CONVOLUTIONS"):
        return "RESNETS.STANDARDIZE_CONVOLUTIONS"
    if int(settings["LAYER4_STRIDE"]) != 2:
        return f"RESNETS.LAYER4_STRIDE={settings['LAYER4_STRIDE']}, and other libraries have 2, or dilated convolutions"
    depth, groups, width = int(settings["DEPTH"]), int(settings["GROUPS"]), int(settings["WIDTH_PER_GROUP"])
    is_bgr = model["INPUT_TYPE"] == "bgr"
    if (multiplier := int(settings["WIDTH_MULTIPLIER"])) == 1:
        changed = {"groups": groups, "width_per_group": width}
        arguments: dict[str, Any] = {
            key: value for key, value in changed.items() if value != {"groups": 1}.get(key, 64)
        }
        if depth in (50, 101, 152):
            call = Call(f"torchvision.models.resnet{depth}", arguments)
        else:
            block = Call("torchvision.models.resnet.Bottleneck", None)
            layers = {"block": block, "layers": list(_DEPTHS[depth])}
            call = Call("torchvision.models.resnet.ResNet", {**layers, **arguments})
        return Counterpart("torchvision", call, functools.partial(_resnet_names, is_bgr=is_bgr))
    if (groups, width) != (1, 64):
        return f"RESNETS.WIDTH_MULTIPLIER={multiplier} with GROUPS={groups} and WIDTH_PER_GROUP={width}"
    wide = [256 * multiplier * 2**stage for stage in range(4)]
    config = {
        "embedding_size": 64 * multiplier,
        "hidden_sizes": wide,
        "depths": list(_DEPTHS[depth]),
        "layer_type": "bottleneck",
    }
    call = Call("transformers.ResNetModel", {"config": Call("transformers.ResNetConfig", config)})
    rename = functools.partial(_transformers_names, is_bgr=is_bgr)
    return Counterpart("transformers", call, rename, linear="", output="pooler_output")


def regnet(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """VISSL's trunks ``regnet`` in torchvision, read from the modules themselves; as text, why that has none."""
    settings, stem, *stages = model["TRUNK"]["REGNET"], *list(trunk._feature_blocks.children())[:-2]  # type: ignore[misc]
    for part, theirs in (
        (stem, "SimpleStemIN"),
        *((block, "ResBottleneckBlock") for stage in stages for block in stage),
    ):
        if (name := type(part).__name__) != theirs:
            return f"blocks of the kind {name}, and torchvision has {theirs}"
    rename = functools.partial(_regnet_names, is_bgr=model["INPUT_TYPE"] == "bgr")
    if settings.get("name") in _PUBLISHED:
        return Counterpart("torchvision", Call(f"torchvision.models.{settings['name'].replace('.', '_')}"), rename)
    firsts = [next(iter(stage.children())) for stage in stages]
    widths = [block.f.c.out_channels for block in firsts]
    numbers = {
        "depths": [len(list(stage.children())) for stage in stages],
        "widths": widths,
        "group_widths": [block.f.b[0].in_channels // block.f.b[0].groups for block in firsts],
        "bottleneck_multipliers": [block.f.c.in_channels / width for block, width in zip(firsts, widths, strict=True)],
        "strides": [block.f.b[0].stride[0] for block in firsts],
        "se_ratio": float(settings.get("se_ratio", 0.25)) if hasattr(firsts[0].f, "se") else None,
    }
    arguments = {
        "block_params": Call("torchvision.models.regnet.BlockParams", numbers),
        "stem_width": stem.stem[0].out_channels,
    }
    return Counterpart("torchvision", Call("torchvision.models.RegNet", arguments), rename)


def as_rgb(state: State, first: str, is_bgr: bool) -> State:
    """Images of other libraries are red, green and blue: what turns them round is taken into the first convolution."""
    return {**state, first: state[first].flip(1).contiguous()} if is_bgr else state


def _resnet_names(state: State, *, is_bgr: bool) -> State:
    plain = {name.removeprefix("_feature_blocks."): tensor for name, tensor in state.items()}
    return as_rgb(plain, "conv1.weight", is_bgr)


def _transformers_names(state: State, *, is_bgr: bool) -> State:
    renamed: State = {}
    for name, tensor in _resnet_names(state, is_bgr=is_bgr).items():
        name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
        name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
        name = re.sub(r"^layer(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name)
        name = re.sub(r"\.downsample\.0\.", ".shortcut.convolution.", name)
        name = re.sub(r"\.downsample\.1\.", ".shortcut.normalization.", name)
        name = re.sub(r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution.", name)
        renamed[re.sub(r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization.", name)] = tensor
    return renamed


def _regnet_names(state: State, *, is_bgr: bool) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        name = re.sub(r"^_feature_blocks\.conv1\.", ".stem.", name)
        name = re.sub(r"^_feature_blocks\.res(\d+)\.", lambda m: f".trunk_output.block{int(m[1]) - 1}.", name)
        for ours, theirs in _REGNET_NAMES:
            name = re.sub(ours, theirs, name)
        renamed[name.removeprefix(".")] = tensor
    return as_rgb(renamed, "stem.0.weight", is_bgr)
