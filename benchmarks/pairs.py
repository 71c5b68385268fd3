"""Sides of a comparison timed one after the other, in turn first and last."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from inputs import geometric_mean, machine


def in_pairs(
    sides: Mapping[str, Callable[..., np.ndarray]], data: Sequence[object], num_pairs: int, name: str
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """What each side makes of the same data, and how long it takes.

    Args:
        sides: functions of ``data`` by name; one of them is "ours".
        data: the arguments of each.
        num_pairs: how often each runs; every other time the order is turned round.
        name: what is compared, for the line that each pair prints.

    Returns:
        What each side found; "seconds", the median of each side, and "ratios", the median of the pairs of the seconds
        of each peer over ours.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(num_pairs):
        found = {}
        for side in list(sides)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            found[side] = sides[side](*data)
            seconds[side].append(time.perf_counter() - begun)
        print(name, {side: round(of_side[-1], 2) for side, of_side in seconds.items()}, flush=True)
    ratios = {
        side: statistics.median(theirs / our for theirs, our in zip(of_side, seconds["ours"], strict=True))
        for side, of_side in seconds.items()
        if side != "ours"
    }
    return found, {"seconds": {side: statistics.median(each) for side, each in seconds.items()}, "ratios": ratios}


def print_report(benchmark: str, sizes: Sequence[Mapping[str, Any]], peers: Sequence[str], **facts: object) -> None:
    """Prints one JSON object: the ratios of all sizes, as :func:`in_pairs` gives them of each, and what else there is.

    Args:
        benchmark: its name.
        sizes: of each its facts, "ratios" among them.
        peers: their names.
        facts: of the benchmark.
    """
    report = {
        "benchmark": benchmark,
        "ratios": {peer: geometric_mean([size["ratios"][peer] for size in sizes]) for peer in peers},
        "min_ratio": min(ratio for size in sizes for ratio in size["ratios"].values()),
        **facts,
        "sizes": sizes,
        "machine": machine(),
    }
    print(json.dumps(report))
