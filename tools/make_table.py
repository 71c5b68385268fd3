"""A table of models by benchmarks: ``python tools/make_table.py RUN... [--output DIR | --csv FILE] [--no-published]``.

RUN is the folder of a run with its results.json, or such a file. Printed is a Markdown table, in percent: seeds of the
same model, benchmark, data and protocol as mean ± half-width of the 95 % t interval, other protocols in columns of
their own, and the published figures for the same data and benchmarks in columns that name their source and say whether
the protocol is known to agree. --output also writes DIR/table.md and DIR/table.csv, --csv the CSV alone. Exit code 0,
or 2 if a file is missing, is none of results, or has no rows. See docs/transfer.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.report.published import published_rows
from vissl_clusterfit.report.results import read_runs
from vissl_clusterfit.report.table import format_table, table_csv
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.paths import artifact_path


def main() -> int:
    """Makes the table of the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a folder with results.json, or a file; a path or a URI")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--output", metavar="DIR", help="also write table.md and table.csv into this folder")
    place.add_argument("--csv", metavar="FILE", help="also write the CSV into this file")
    parser.add_argument("--no-published", action="store_true", help="leave published figures out")
    options = parser.parse_args()
    try:
        rows = read_runs(artifact_path(run, "RUN") for run in options.runs)
        published = [] if options.no_published else published_rows(rows)
        markdown, lines = format_table(rows, style="markdown", published=published), table_csv(rows, published)
        if options.output:
            _write(artifact_path(options.output, "--output") / "table.md", f"{markdown}\n")
            _write(artifact_path(options.output, "--output") / "table.csv", lines)
        if options.csv:
            _write(artifact_path(options.csv, "--csv"), lines)
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown)
    return 0


def _write(path: Path, text: str) -> None:
    write_file(path, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    sys.exit(main())
