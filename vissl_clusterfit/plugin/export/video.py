"""Our trunks of video under the names of torchvision."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from vissl_clusterfit.plugin.export.convolutional import as_rgb
from vissl_clusterfit.plugin.export.counterparts import Call, Counterpart, State
from vissl_clusterfit.plugin.models.video_trunks import trunk_settings

#: Their clips may be of any length and size, so that small ones show whether outputs are the same.
RESNETS = ("r2plus1d_18", "r3d_18", "mc3_18")
_SMALL_CLIP = (3, 4, 32, 32)


def video_resnet(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """R(2+1)D-18, R3D-18 and MC3-18 in torchvision; as text, why it has not this one."""
    if width := trunk_settings(model).width:
        return f"VIDEO.WIDTH={width}, and torchvision has the published width"
    call = Call(f"torchvision.models.video.{model['TRUNK']['NAME']}")
    return Counterpart(
        "torchvision",
        call,
        functools.partial(_names, is_bgr=model["INPUT_TYPE"] == "bgr"),
        checked_on=_SMALL_CLIP,
    )


def _names(state: State, *, is_bgr: bool) -> State:
    plain = {name.removeprefix("_feature_blocks."): tensor for name, tensor in state.items()}
    return as_rgb(plain, "stem.0.weight", is_bgr)
