"""What the folder of a run holds, and how it came out.

    vissl-clusterfit report runs/student
    vissl-clusterfit report run --true classes.npy

Printed are the artefacts in the folder and below it, each with what it was made from, its numbers and its size on disk;
the objective of the clusterings; the sizes of the clusters, and with --true how far labels agree with true classes; and
the scores of results.json as a table. Exit code 0, or 2 if there is nothing to report.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("folder", metavar="FOLDER", help="of a run, or of an artefact; a path or a URI")
    parser.add_argument("--true", metavar="FILE.npy", help="true classes of the labelled samples, -1 for none")


def run(options: argparse.Namespace) -> int:
    """Prints what can be said."""
    from vissl_clusterfit.commands.reporting import report
    from vissl_clusterfit.storage.paths import artifact_path

    true = None if options.true is None else artifact_path(options.true, "--true")
    print(report(artifact_path(options.folder, "FOLDER"), true))
    return 0
