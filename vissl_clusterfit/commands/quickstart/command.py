"""ClusterFit on two cores: from drawn digits to a table of transfer figures, by the commands that it prints.

    vissl-clusterfit quickstart
    vissl-clusterfit quickstart --small --folder try
    vissl-clusterfit quickstart --video --control

What is already done in the folder is not done again. --control adds a teacher that is trained for as long as teacher
and student together. --video takes clips of moving digits. --small shows in a minute or two that everything runs; its
figures mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("--folder", type=Path, help="where everything is kept (quickstart, or quickstart-video)")
    parser.add_argument("--control", action="store_true", help="also a teacher that is trained twice as long")
    parser.add_argument("--video", action="store_true", help="clips of moving digits instead of pictures")
    parser.add_argument("--open", action="store_true", help="the page of the clusters in the browser, at the end")
    parser.add_argument("--small", action="store_true", help="a few samples and one epoch")


def run(options: argparse.Namespace) -> int:
    """Runs every stage that is missing, prints the table and returns the exit code."""
    from vissl_clusterfit.dependencies import require

    require("torch", "vissl")
    how = {"small": options.small, "control": options.control, "open_page": options.open}
    if options.video:
        from vissl_clusterfit.commands.quickstart.video import quickstart

        return quickstart(options.folder or Path("quickstart-video"), **how)
    from vissl_clusterfit.commands.quickstart.pictures import quickstart

    return quickstart(options.folder or Path("quickstart"), **how)
