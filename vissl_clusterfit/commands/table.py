"""A table of models by benchmarks.

    vissl-clusterfit table runs/teacher-transfer runs/student-transfer
    vissl-clusterfit table runs/seed* --output tables
    vissl-clusterfit table runs/seed*/results.json --csv table.csv --no-published

RUN is the folder of a run with its results.json, or such a file. Printed is a Markdown table, in percent: seeds of the
same model, benchmark, data and protocol as mean ± half-width of the 95 % t interval, other protocols in columns of
their own, and the published figures for the same data and benchmarks in columns that name their source and say whether
the protocol is known to agree. --output also writes DIR/table.md and DIR/table.csv, --csv the CSV alone. Exit code 0,
or 2 if a file is missing, is none of results, or has no rows. See docs/transfer.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a folder with results.json, or a file; a path or a URI")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--output", metavar="DIR", help="also write table.md and table.csv into this folder")
    place.add_argument("--csv", metavar="FILE", help="also write the CSV into this file")
    parser.add_argument("--no-published", action="store_true", help="leave published figures out")


def run(options: argparse.Namespace) -> int:
    """Makes the table."""
    from vissl_clusterfit.report.published import published_rows
    from vissl_clusterfit.report.results import read_runs
    from vissl_clusterfit.report.table import format_table, table_csv
    from vissl_clusterfit.storage.paths import artifact_path

    rows = read_runs(artifact_path(run, "RUN") for run in options.runs)
    published = [] if options.no_published else published_rows(rows)
    markdown, lines = format_table(rows, style="markdown", published=published), table_csv(rows, published)
    if options.output:
        _write(artifact_path(options.output, "--output") / "table.md", f"{markdown}\n")
        _write(artifact_path(options.output, "--output") / "table.csv", lines)
    if options.csv:
        _write(artifact_path(options.csv, "--csv"), lines)
    print(markdown)
    return 0


def _write(path: Path, text: str) -> None:
    from vissl_clusterfit.storage.atomic import write_file

    write_file(path, lambda file: file.write(text.encode()))
