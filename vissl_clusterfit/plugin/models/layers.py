"""Several layers of a trunk in one pass over the images, pooled as VISSL pools them, and their features on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from vissl.models.trunks.feature_extractor import POOL_OPS

from vissl_clusterfit import distributed
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.batches import ImageSource
from vissl_clusterfit.features.layers import LayerRows
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.plugin.models.encoder import EncoderSpec, load_network, trunk_layers
from vissl_clusterfit.plugin.models.library_network import is_library_network

#: The setting with the layers: pairs of a layer and of a pooling with its arguments.
SETTING = "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"

Encode = Callable[[torch.Tensor], list[torch.Tensor]]


def layer_maps(spec: EncoderSpec, operations: Sequence[Any], device: torch.device, compute: Compute = PLAIN) -> Encode:
    """A function from images (B, C, H, W) to the pooled layers, as VISSL's extractor has them before it flattens.

    Args:
        spec: the network.
        operations: pairs of a layer and ``[name of a pooling, its arguments]``, VISSL's LINEAR_EVAL_FEAT_POOL_OPS_MAP.
        device: of the network.
        compute: how it computes.

    Raises:
        ConfigError: the trunk has no such layer, or VISSL no such pooling.
    """
    trunk = load_network(spec, device).trunk
    layers, known = [layer for layer, _ in operations], trunk_layers(trunk)
    if is_library_network(spec.model):  # hundreds of them: the nearest are said
        trunk.described.require_layers(layers)
    unknown = [layer for layer in layers if known and layer not in known]
    if unknown:
        raise ConfigError(problem(SETTING, found=unknown, allowed=", ".join(known)))
    poolings = [name for _, (name, _) in operations if name not in POOL_OPS]
    if poolings:
        raise ConfigError(problem(SETTING, found=poolings, allowed=", ".join(POOL_OPS)))
    pools = [POOL_OPS[name](*arguments).eval() for _, (name, arguments) in operations]

    def encode(images: torch.Tensor) -> list[torch.Tensor]:
        maps = trunk(images, layers)
        return [pool(found.float()) for pool, found in zip(pools, maps, strict=True)]

    return prepared(encode, trunk, device, compute)


def side_by_side(encode: Encode) -> Callable[[torch.Tensor], torch.Tensor]:
    """The layers of each image as one row, (B, D)."""
    return lambda images: torch.cat([found.flatten(1) for found in encode(images)], dim=1)


def rows_by_layer(
    store: FeatureStore, layers: Sequence[str], encode: Callable[[], Encode], images: ImageSource
) -> dict[str, LayerRows]:
    """What each layer has of a store that holds them side by side; called by all processes together.

    Args:
        store: of all layers.
        layers: their names, in the order of the columns.
        encode: gives the function that the store was made with; one image tells the widths where there are several.
        images: that the store was made from.
    """
    widths = [store.dim] if len(layers) == 1 else distributed.on_primary(lambda: _widths(encode(), images))
    assert sum(widths) == store.dim, (widths, store.dim)
    readable = np.setdiff1d(np.arange(store.num_samples), store.unreadable)
    stops = np.cumsum(widths)
    return {
        layer: LayerRows(store, readable, slice(int(stop - width), int(stop)))
        for layer, width, stop in zip(layers, widths, stops, strict=True)
    }


def _widths(encode: Encode, images: ImageSource) -> list[int]:
    image, _ = images[0]
    with torch.inference_mode():
        return [found.numel() for found in encode(image.unsqueeze(0))]
