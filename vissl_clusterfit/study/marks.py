"""Figures and tables of a report, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vissl_clusterfit.report.intervals import Interval


def plain(value: Interval | float) -> str:
    """In percent; an interval with its half-width, where it has one."""
    interval = value if isinstance(value, Interval) else Interval(value, math.nan)
    mean = f"{100 * interval.mean:.1f}"
    return mean if math.isnan(interval.half_width) else f"{mean} ± {100 * interval.half_width:.1f}"


def signed(interval: Interval) -> str:
    """In points, in bold where it excludes zero."""
    mean = f"{100 * interval.mean:+.1f}"
    if math.isnan(interval.half_width):
        return mean
    text = f"{mean} ± {100 * interval.half_width:.1f}"
    return f"**{text}**" if interval.excludes_zero else text


def as_table(table: Sequence[Sequence[str]]) -> str:
    """A table, its first row the heading."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in table]
    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
