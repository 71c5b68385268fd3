"""Writes the report of a study: ``study.md`` has its tables, ``study.csv`` every score, ``study.png`` the curves."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import BinaryIO

from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.study.report import Report

logger = logging.getLogger(__name__)


def write_report(folder: Path, report: Report, markdown: str) -> list[Path]:
    """Writes a report with its text into a folder, and returns the files; without matplotlib no plot, and a warning."""
    files = {folder / "study.md": markdown.encode(), folder / "study.csv": report.csv().encode()}
    try:
        from vissl_clusterfit.study.plot import curves
    except ImportError:
        logger.warning("No plot, as matplotlib is not installed: pip install matplotlib, and run the study again.")
    else:
        files[folder / "study.png"] = curves(report)
    for file, content in files.items():
        write_file(file, functools.partial(_write, content))
    return [*files]


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
