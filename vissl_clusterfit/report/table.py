"""Result rows as a table of models by benchmarks."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.report.intervals import Interval, student_interval
from vissl_clusterfit.report.results import OVER_DRAWS, ResultRow

_STYLES = ("text", "markdown")


class _Column(NamedTuple):
    """What scores share that may be compared, and averaged over seeds."""

    benchmark: str
    dataset: str
    split: str
    metric: str
    protocol: str


@dataclass
class _Cell:
    """The scores of one model in one column."""

    by_seed: dict[int, float] = field(default_factory=dict)
    #: Half-widths over the draws of each seed.
    over_draws: dict[int, float] = field(default_factory=dict)

    def interval(self) -> tuple[Interval, str]:
        """Mean and half-width, and over what; of a single seed the half-width over its draws, NaN without any."""
        interval = student_interval([*self.by_seed.values()])
        if len(self.by_seed) == 1 and self.over_draws:
            return Interval(interval.mean, *self.over_draws.values()), "draws"
        return interval, "" if math.isnan(interval.half_width) else "seeds"


def format_table(rows: Sequence[ResultRow], *, style: str = "text", published: Sequence[ResultRow] = ()) -> str:
    """Models by benchmarks, in percent with one decimal; over seeds, mean ± half-width of the 95 % t interval.

    A column holds what has the same benchmark, data set, split, metric and protocol. Its heading names the
    benchmark, and of data set, split and metric what differs from column to column; what is common stands
    above the table. Columns that differ in the protocol alone are numbered, with their protocols below; so are those of
    published scores, with their sources. The half-width over the draws of a single seed follows its score.

    Args:
        rows: At least one. Models and columns keep the order in which they first come.
        style: "text" for aligned plain text, "markdown" for a Markdown table.
        published: of ``published_rows``; their columns follow those of the same data.

    Raises:
        ConfigError: ``style`` is neither.
        ValueError: there are no rows.
    """
    if style not in _STYLES:
        raise ConfigError(problem("style", found=repr(style), allowed=" | ".join(map(repr, _STYLES))))
    caption, cells, notes = table_cells(rows, published)
    table = _markdown if style == "markdown" else _text
    below = ("  \n" if style == "markdown" else "\n").join(notes)
    return "\n\n".join(filter(None, [caption, table(cells), below]))


def table_cells(
    rows: Sequence[ResultRow], published: Sequence[ResultRow] = ()
) -> tuple[str, list[list[str]], list[str]]:
    """The caption, the cells with their headings first, and the notes of :func:`format_table`.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("A table needs at least one row.")
    cells = _cells([*rows, *published])
    order = {_column(row): place for place, row in reversed([*enumerate(rows)])}
    columns = sorted({column for of_model in _cells(rows).values() for column in of_model}, key=order.__getitem__)
    sources = dict.fromkeys(_column(row) for row in published)
    for source in reversed(sources):
        last = max(place for place, column in enumerate(columns) if column.dataset == source.dataset)
        columns.insert(last + 1, source)
    caption, headings, notes = _headings(columns, set(sources))
    found = [cell.interval()[1] for of_model in cells.values() for cell in of_model.values()]
    if "seeds" in found:
        caption += ", mean ± half-width of the 95 % t interval over n seeds"
    if "draws" in found:
        caption += ", of one seed ± that over its draws"
    body = [[model, *(_text_of(of_model.get(column)) for column in columns)] for model, of_model in cells.items()]
    return caption, [["model", *headings], *body], notes


def table_csv(rows: Sequence[ResultRow], published: Sequence[ResultRow] = ()) -> str:
    """The cells of the table, a line each, as CSV; scores are fractions.

    Args:
        rows: as of :func:`format_table`.
        published: likewise; they are lines without seeds.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = [*_Column._fields[:-1], "mean", "half_width", "interval_over", "n", "seeds", "protocol"]
    lines.writerow(["model", *names])
    for of_rows, measured in ((rows, True), (published, False)):
        for model, of_model in _cells(of_rows).items():
            for column, cell in of_model.items():
                interval, over = cell.interval()
                half_width = repr(interval.half_width) if over else ""
                seeds = [len(cell.by_seed), " ".join(map(str, sorted(cell.by_seed)))] if measured else ["", ""]
                values = [repr(interval.mean), half_width, over, *seeds]
                lines.writerow([model, *column[:-1], *values, column.protocol])
    return text.getvalue()


def _cells(rows: Sequence[ResultRow]) -> dict[str, dict[_Column, _Cell]]:
    means = {row.identity for row in rows}
    cells: dict[str, dict[_Column, _Cell]] = {}
    for row in rows:
        whose = replace(row, metric=row.metric.removesuffix(OVER_DRAWS))
        is_half_width = whose.metric != row.metric and whose.identity in means
        column = _column(whose if is_half_width else row)
        cell = cells.setdefault(row.model, {}).setdefault(column, _Cell())
        (cell.over_draws if is_half_width else cell.by_seed)[row.seed] = row.value
    return cells


def _column(row: ResultRow) -> _Column:
    return _Column(row.benchmark, row.dataset, row.split, row.metric, row.protocol)


def _headings(columns: Sequence[_Column], noted: set[_Column]) -> tuple[str, list[str], list[str]]:
    """Caption, one heading per column, and notes: of columns that look alike, and of those that are to have one."""
    shared = [place for place in (1, 2, 3) if len({column[place] for column in columns}) == 1]
    caption = ", ".join([*(columns[0][place] for place in shared), "in %"])
    plain = []
    for column in columns:
        apart = ", ".join(column[place] for place in (1, 2, 3) if place not in shared)
        plain.append(f"{column.benchmark} ({apart})" if apart else column.benchmark)
    headings: list[str] = []
    notes: list[str] = []
    numbers: dict[str, int] = {}
    for column, heading in zip(columns, plain, strict=True):
        if plain.count(heading) > 1 or column in noted:
            number = numbers.setdefault(column.protocol, len(numbers) + 1)
            heading = f"{heading} [{number}]"
            if number > len(notes):
                notes.append(f"[{number}] {column.protocol}")
        headings.append(heading)
    return caption, headings, notes


def _text_of(cell: _Cell | None) -> str:
    if cell is None:
        return "-"
    interval, over = cell.interval()
    mean = f"{100 * interval.mean:.1f}"
    if not over:
        return mean
    return f"{mean} ± {100 * interval.half_width:.1f}" + (f" (n = {len(cell.by_seed)})" if over == "seeds" else "")


def _text(table: list[list[str]]) -> str:
    widths, lines = _aligned(table)
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line) for line in [lines[0], rule, *lines[1:]])


def _markdown(table: list[list[str]]) -> str:
    widths, lines = _aligned([[text.replace("|", r"\|") for text in line] for line in table])
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _aligned(table: list[list[str]]) -> tuple[list[int], list[list[str]]]:
    """The columns' widths, and the lines padded to them: names to the left, scores to the right."""
    widths = [max(map(len, texts)) for texts in zip(*table, strict=True)]
    lines = [
        [
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in table
    ]
    return widths, lines
