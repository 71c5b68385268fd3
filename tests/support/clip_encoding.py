"""Features of clips, as an extraction gets them from a trunk."""

import torch
from vissl.config import AttrDict

from vissl_clusterfit.plugin.models.encoder import EncoderSpec, build_encoder


def encode(model: AttrDict, clips: torch.Tensor, weights=None, layer: str = "", pooling: str = "avg") -> torch.Tensor:
    """Clips (B, 3, T, H, W) to features (B, D)."""
    spec = EncoderSpec(model, weights and str(weights), "", trust_weights=False, layer=layer, pooling=pooling)
    with torch.inference_mode():
        return build_encoder(spec, torch.device("cpu"))(clips)
