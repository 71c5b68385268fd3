"""The quality of pseudo-labels.

    vissl-clusterfit compare runs/student
    vissl-clusterfit compare runs/seed0 runs/seed1 --true classes.npy
    vissl-clusterfit compare run/labels --json

LABELS and OTHER are folders of pseudo-labels of the same data, for example of two seeds, or of the runs that made them;
FILE.npy holds true classes.
Printed are the sizes of the clusters, the share of samples that lie between two clusters, and for each pair normalised
mutual information, adjusted Rand index and purity: see docs/clustering.md. Exit code 0, or 2 if something cannot be
compared.
"""

from __future__ import annotations

import argparse
import json

from vissl_clusterfit.commands.parsing import share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("labels", metavar="LABELS", help="a folder of pseudo-labels; a path or a URI")
    parser.add_argument("other", nargs="?", metavar="OTHER", help="another one, of the same data")
    parser.add_argument("--true", metavar="FILE.npy", help="true classes, (N,) integers, -1 for none")
    parser.add_argument(
        "--tolerance",
        type=share,
        help="a sample is undecided if its second centroid is farther by at most this share of its squared distance "
        "(0.05)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the objective of every iteration")


def run(options: argparse.Namespace) -> int:
    """Compares what the options name."""
    from vissl_clusterfit.commands.places import labels_in
    from vissl_clusterfit.labels.comparison import TOLERANCE, format_quality, label_quality
    from vissl_clusterfit.storage.paths import artifact_path

    first, other, true = [
        None if text is None else artifact_path(text, name)
        for name, text in (("LABELS", options.labels), ("OTHER", options.other), ("--true", options.true))
    ]
    assert first is not None
    tolerance = TOLERANCE if options.tolerance is None else options.tolerance
    quality = label_quality(labels_in(first), other and labels_in(other), true, tolerance)
    print(json.dumps(quality, indent=2) if options.json else format_quality(quality))
    return 0
