"""Batch norm with fixed statistics as part of the convolution before it: one pass over the maps less."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Folding moves the last bits. What it breaks is another function of the images.
_LARGEST_DIFFERENCE = 1e-3


def fold_batch_norms(network: nn.Module, run: Callable[[], torch.Tensor]) -> int:
    """Folds every batch norm that follows a convolution, and nothing else, into it.

    y = γ (w * x + b − μ) / √(σ² + ε) + β is a convolution with the weights w γ / √(σ² + ε), computed in float64. The
    norm stays where it is and does nothing, so that layers keep their names.

    Args:
        network: in evaluation; it is changed in place.
        run: does one pass through it, of any images, and gives the result. Where folding would change that (a network
            that reads its weights elsewhere, or the output of a convolution besides), nothing is folded.

    Returns:
        How many were folded.
    """
    with _full_precision():
        return _fold_all(network, run)


def _fold_all(network: nn.Module, run: Callable[[], torch.Tensor]) -> int:
    expected, pairs = _followed(network, run)
    if not pairs:
        return 0
    kept = [(convolution, convolution.weight, convolution.bias, norm) for convolution, norm in pairs]
    for convolution, norm in pairs:
        _fold(convolution, norm)
    found = run()
    apart = (found - expected).norm() / expected.norm().clamp_min(1e-12)
    if bool(apart <= _LARGEST_DIFFERENCE):
        return len(pairs)
    for convolution, weight, bias, norm in kept:
        convolution.weight, convolution.bias = weight, bias
        del norm.forward
    return 0


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 as it is: a card rounds what it convolves to 10 bits, and two such results may be too far apart."""
    convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = convolutions.fp32_precision, products.fp32_precision
    convolutions.fp32_precision = products.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision, products.fp32_precision = before


def _followed(network: nn.Module, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[tuple[Any, Any]]]:
    """What ``run`` gives, and the convolutions of a pass with the norm that takes their output."""
    outputs: dict[int, tuple[Any, torch.Tensor]] = {}  # with the tensors, or numbers would be given again
    pairs: list[tuple[Any, Any]] = []
    calls: Counter[nn.Module] = Counter()

    def made(module: nn.Module, _: object, output: torch.Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = (module, output)

    def taken(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        calls[module] += 1
        if id(given[0]) in outputs and _is_fixed(module):
            pairs.append((outputs[id(given[0])][0], module))

    hooks = []
    for module in network.modules():
        if type(module) in _CONVOLUTIONS:
            hooks.append(module.register_forward_hook(made))
        elif type(module) in _NORMS:
            hooks.append(module.register_forward_pre_hook(taken))
    try:
        expected = run()
    finally:
        for hook in hooks:
            hook.remove()
    return expected, [pair for pair in pairs if all(calls[module] == 1 for module in pair)]


def _is_fixed(norm: Any) -> bool:
    return not norm.training and norm.running_var is not None


@torch.no_grad()
def _fold(convolution: Any, norm: Any) -> None:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = convolution.weight
    folded = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    convolution.weight = nn.Parameter(folded.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
    norm.forward = _unchanged


def _unchanged(maps: torch.Tensor) -> torch.Tensor:
    return maps
