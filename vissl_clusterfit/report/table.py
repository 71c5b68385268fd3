"""Result rows as a table of models by benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.report.results import ResultRow

_STYLES = ("text", "markdown")


def format_table(rows: Sequence[ResultRow], *, style: str = "text") -> str:
    """Models by benchmarks, in percent with one decimal; the mean ± sample standard deviation over seeds.

    A column holds what has the same benchmark, data set, split, metric and protocol. Its heading names the
    benchmark, and of data set, split and metric what differs from column to column; what is common stands
    above the table. Columns that differ in the protocol alone are numbered, with their protocols below.

    Args:
        rows: At least one. Models and columns keep the order in which they first come.
        style: "text" for aligned plain text, "markdown" for a Markdown table.

    Raises:
        ConfigError: ``style`` is neither.
        ValueError: there are no rows.
    """
    if style not in _STYLES:
        raise ConfigError(problem("style", found=repr(style), allowed=" | ".join(map(repr, _STYLES))))
    if not rows:
        raise ValueError("format_table needs at least one row.")
    columns = list(dict.fromkeys(_column(row) for row in rows))
    values: dict[str, dict[tuple[str, ...], dict[int, float]]] = {}
    for row in rows:
        values.setdefault(row.model, {}).setdefault(_column(row), {})[row.seed] = row.value
    caption, headings, notes = _headings(columns)
    if any(len(by_seed) > 1 for of_model in values.values() for by_seed in of_model.values()):
        caption += ", mean ± standard deviation over seeds"
    body = [[model, *(_cell(of_model.get(column, {})) for column in columns)] for model, of_model in values.items()]
    table = _markdown if style == "markdown" else _text
    return "\n\n".join(filter(None, [caption, table([["model", *headings], *body]), "\n".join(notes)]))


def _column(row: ResultRow) -> tuple[str, ...]:
    return row.benchmark, row.dataset, row.split, row.metric, row.protocol


def _headings(columns: Sequence[tuple[str, ...]]) -> tuple[str, list[str], list[str]]:
    """Caption, one heading per column, and notes."""
    shared = [place for place in (1, 2, 3) if len({column[place] for column in columns}) == 1]
    caption = ", ".join([*(columns[0][place] for place in shared), "in %"])
    plain = []
    for column in columns:
        apart = ", ".join(column[place] for place in (1, 2, 3) if place not in shared)
        plain.append(f"{column[0]} ({apart})" if apart else column[0])
    headings: list[str] = []
    notes: list[str] = []
    for place, heading in enumerate(plain):
        if plain.count(heading) > 1:
            heading = f"{heading} [{len(notes) + 1}]"
            notes.append(f"[{len(notes) + 1}] {columns[place][4]}")
        headings.append(heading)
    return caption, headings, notes


def _cell(by_seed: Mapping[int, float]) -> str:
    if not by_seed:
        return "-"
    mean = f"{100 * statistics.fmean(by_seed.values()):.1f}"
    return f"{mean} ± {100 * statistics.stdev(by_seed.values()):.1f}" if len(by_seed) > 1 else mean


def _text(table: list[list[str]]) -> str:
    widths, lines = _aligned(table)
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line) for line in [lines[0], rule, *lines[1:]])


def _markdown(table: list[list[str]]) -> str:
    widths, lines = _aligned([[text.replace("|", r"\|") for text in line] for line in table])
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _aligned(table: list[list[str]]) -> tuple[list[int], list[list[str]]]:
    """The columns' widths, and the lines padded to them: names to the left, figures to the right."""
    widths = [max(map(len, texts)) for texts in zip(*table, strict=True)]
    lines = [
        [
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in table
    ]
    return widths, lines
