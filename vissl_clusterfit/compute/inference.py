"""A network that is not trained, made ready to compute as it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from vissl_clusterfit.compute.chosen import Compute, require_possible
from vissl_clusterfit.compute.folding import fold_batch_norms

Output = TypeVar("Output", torch.Tensor, list[torch.Tensor])

# What autocast computes in lower precision with weights that it would cast for every batch.
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NUM_IMAGES, _SEED = 2, 0


def prepared(
    encode: Callable[[torch.Tensor], Output], network: nn.Module, device: torch.device, compute: Compute
) -> Callable[[torch.Tensor], Output]:
    """A function of images that computes as it was chosen, from one that computes in float32.

    In lower precision batch norms are folded into convolutions, and weights that autocast would cast for every batch
    are cast once: the network is changed when the first batch comes, and is of no other use then. Plain float32 changes
    nothing. A compiled network gets batches of one size, the first one's, as it is compiled for each: a smaller one is
    filled up.

    Args:
        encode: from images (B, C, H, W) or clips on ``device`` to features, or a list of maps, in float32.
        network: that it runs, in evaluation, on ``device``.
        device: of the network.
        compute: how.

    Returns:
        The same function; images may be on the CPU, and are copied without waiting where they are in pinned memory.

    Raises:
        ConfigError: the device cannot compute so.
    """
    require_possible(compute, device)
    run = torch.compile(encode, dynamic=False) if compute.compiled else encode
    is_ready, size = False, 0

    def computed(images: torch.Tensor) -> Output:
        nonlocal is_ready, size
        number, size = len(images), size or len(images)
        if compute.compiled and number < size:
            images = torch.cat([images, images[-1:].expand(size - number, *images.shape[1:])])
        images = compute.arranged(images.to(device, non_blocking=True))
        if not is_ready:
            with torch.inference_mode(False), torch.no_grad():
                _make_ready(network, encode, images, compute)
            is_ready = True
        with compute.autocast(device):
            found = run(images)
        return found if len(images) == number else _first(found, number)

    return computed


def _first(found: Output, number: int) -> Output:
    return found[:number] if isinstance(found, torch.Tensor) else [part[:number] for part in found]


def _make_ready(
    network: nn.Module, encode: Callable[[torch.Tensor], Any], images: torch.Tensor, compute: Compute
) -> None:
    if compute.precision != "float32":
        # The same images in every process: whether norms are folded must not depend on which batch is its first.
        generator = torch.Generator().manual_seed(_SEED)
        some = torch.rand((_NUM_IMAGES, *images.shape[1:]), generator=generator).to(images.device)

        fold_batch_norms(network, lambda: _rows(encode(some)))
        for module in network.modules():
            if type(module) in _CAST:  # others may compute something else of their weights
                for name, weights in [*module.named_parameters(recurse=False)]:
                    setattr(module, name, nn.Parameter(weights.to(compute.dtype), requires_grad=False))
    compute.arrange(network)


def _rows(found: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    parts = [found] if isinstance(found, torch.Tensor) else found
    return torch.cat([part.flatten(1).float() for part in parts], dim=1)
