"""``raw_pixels``: the trunk that does nothing, so that every benchmark has its baseline."""

from __future__ import annotations

import torch
from torch import nn
from vissl.config import AttrDict

TRUNK_NAME = "raw_pixels"


class RawPixels(nn.Module):
    """A VISSL trunk whose only layer, ``pixels``, is the transformed image or clip, flat. It has no parameters."""

    all_feat_names = ("pixels",)

    def __init__(self, model_config: AttrDict, model_name: str) -> None:
        super().__init__()

    def forward(self, images: torch.Tensor, out_feat_keys: list[str] | None = None) -> list[torch.Tensor]:
        """Images (B, C, H, W) or clips (B, C, T, H, W) as vectors, in a list as VISSL's trunks give them."""
        return [images.flatten(1)]
