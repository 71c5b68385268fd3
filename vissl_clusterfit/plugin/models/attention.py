"""The attention of VISSL's vision transformers, in lower precision by PyTorch's fused one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def fused_below_float32(forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wraps the ``forward`` of ``Attention``, which makes the whole matrix of each head, and its softmax in float32.

    In float32, and where a part of the matrix is dropped out, it stays VISSL's.
    """

    @functools.wraps(forward)
    def attend(self: Any, tokens: torch.Tensor) -> torch.Tensor:
        """From tokens (B, N, D) to as many."""
        device = tokens.device.type
        lower = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if not lower or (self.training and self.attn_drop.p):
            return forward(self, tokens)
        # (3, B, heads, N, D / heads)
        parts = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0), scale=self.scale)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))

    return attend
