"""What ``auto`` is on a device: the fastest way to compute of those whose results are near those of float32."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vissl_clusterfit.compute.chosen import Compute, has_units, require_possible
from vissl_clusterfit.config.compute import AUTO, ComputeSettings

logger = logging.getLogger(__name__)

#: How far results may be from those of float32: the length of the difference over that of the row, of the median row.
LARGEST_DIFFERENCE = 0.05
#: Another way must be so many times as fast as float32, or what disturbs a measurement would decide.
LEAST_GAIN = 1.2
#: Operations of a piece of work below which it stays in float32: a small network takes less than reading its images.
FEWEST_FLOPS = 2e8
_REPEATS = 3

#: Images of a measurement on a processor, where a float32 pass of a large network over so few is a second's work.
FEW_IMAGES = 4
#: And on a card at most: fewer do not keep one busy, and any way to compute takes as long as starting its kernels.
MOST_IMAGES = 256

#: A piece of work, done once. It gives rows (n, D) that are compared with those of float32, or None.
Work = Callable[[], "torch.Tensor | None"]


def choose(
    settings: ComputeSettings, device: str | torch.device, prepare: Callable[[Compute], Work], num_images: int = 1
) -> Compute:
    """How a network computes: what the settings say, and what measures fastest where they say ``auto``.

    Args:
        settings: ``config.CLUSTERFIT.COMPUTE``.
        device: on which the network computes.
        prepare: gives the work that is timed for a way to compute, without compilation. It is called for one way after
            the other, and only where there is something to choose.
        num_images: of the work, for whether the network is too small to choose for.

    Raises:
        ConfigError: the settings ask for what the device cannot do.
    """
    ways = candidates(settings, device)
    first, *others = ways
    require_possible(first, device)
    if not others:
        return first
    work = prepare(first)
    with _Operations() as operations:
        expected = work()
    if operations.number < FEWEST_FLOPS * num_images:
        logger.info("The network computes in %s: it is too small to gain from anything else.", first)
        return first
    fastest, best, said = first, LEAST_GAIN, []
    for way in others:
        try:
            gain, difference = _compared(work, prepare(way), expected, torch.device(device))
        except RuntimeError as error:  # a network may have operations that a device lacks in a precision
            said.append(f"{way}: it does not run ({str(error).strip().splitlines()[0]})")
            continue
        said.append(f"{way}: {gain:.2f} times as fast, {difference:.1%} apart")
        if difference <= LARGEST_DIFFERENCE and gain >= best:
            fastest, best = way, gain
    logger.info("The network computes in %s. Measured against %s: %s.", fastest, first, "; ".join(said))
    return fastest


def of_as_many_as_fit(measure: Callable[[int], Compute], most: int) -> Compute:
    """What a measurement gives with as many images as a card has memory for: so many, or the half, or its half."""
    number = most
    while number > FEW_IMAGES:
        try:
            return measure(number)
        except torch.OutOfMemoryError:
            number //= 2
    return measure(number)


class _Operations(TorchDispatchMode):
    """Counts those of convolutions and matrix products, nearly all of a network's.

    PyTorch's own counter imports the compiler's libraries.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation, and counts it."""
        result = func(*args, **(kwargs or {}))
        match func.overloadpacket.__name__:
            case "convolution":
                self.number += 2 * result.numel() * args[1][0].numel()
            case "convolution_backward":
                self.number += 4 * args[0].numel() * args[2][0].numel()
            case "mm" | "bmm" | "addmm" | "baddbmm":
                self.number += 2 * result.numel() * args[-1].shape[-2]
        return result


def candidates(settings: ComputeSettings, device: str | torch.device) -> list[Compute]:
    """The ways to compute that the settings allow on a device, float32 first; one where nothing is to be chosen."""

    def way(precision: str) -> Compute:
        last = settings.channels_last
        return Compute(precision, precision != "float32" if last == AUTO else bool(last), settings.compile)

    if settings.precision != AUTO:
        return [way(settings.precision)]
    lower = next((precision for precision in ("bfloat16", "float16") if has_units(precision, device)), None)
    found = [way("float32"), *([way(lower)] if lower else [])]
    return [*found, Compute("float32", True, settings.compile)] if settings.channels_last == AUTO else found


def _compared(work: Work, other: Work, expected: torch.Tensor | None, device: torch.device) -> tuple[float, float]:
    """How many times as fast another way is, and how far its rows are from the expected ones."""
    rows = other()  # what is done at the first call only is not timed
    seconds = [math.inf, math.inf]
    for _ in range(_REPEATS):  # in turn: other work disturbs both
        for number, each in enumerate((work, other)):
            begun = seconds_of(device)
            each()
            seconds[number] = min(seconds[number], seconds_of(device) - begun)
    return seconds[0] / max(seconds[1], 1e-9), _difference(rows, expected)


def _difference(rows: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    if rows is None or expected is None:
        return 0.0
    rows, expected = rows.double(), expected.double()
    apart = (rows - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-12)
    return float(apart.median()) if bool(torch.isfinite(rows).all()) else math.inf


def seconds_of(device: torch.device) -> float:
    """Seconds, when a device has done its work. Those of all processors together: other work takes none of them."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
