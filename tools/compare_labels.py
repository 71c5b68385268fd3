"""The quality of pseudo-labels: ``python tools/compare_labels.py LABELS [OTHER] [--true FILE.npy] [--json]``.

LABELS and OTHER are folders of pseudo-labels of the same data, for example of two seeds, or of the runs that made them;
FILE.npy holds true classes.
Printed are the sizes of the clusters, the share of samples that lie between two clusters, and for each pair normalised
mutual information, adjusted Rand index and purity: see docs/clustering.md. Exit code 0, or 2 if something cannot be
compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from vissl_clusterfit.errors import ArtifactError, ClusterFitError, problem
from vissl_clusterfit.labels.comparison import TOLERANCE, format_quality, label_quality
from vissl_clusterfit.storage.artifacts import has_manifest
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.verification.verify import find_artifacts


def main() -> int:
    """Compares what the command line names and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", metavar="LABELS", help="a folder of pseudo-labels; a path or a URI")
    parser.add_argument("other", nargs="?", metavar="OTHER", help="another one, of the same data")
    parser.add_argument("--true", metavar="FILE.npy", help="true classes, (N,) integers, -1 for none")
    parser.add_argument(
        "--tolerance",
        type=_share,
        default=TOLERANCE,
        help="a sample is undecided if its second centroid is farther by at most this share of its squared distance "
        "(%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the objective of every iteration")
    options = parser.parse_args()
    try:
        places = [
            None if text is None else artifact_path(text, name)
            for name, text in (("LABELS", options.labels), ("OTHER", options.other), ("--true", options.true))
        ]
        first, other, true = places
        assert first is not None
        quality = label_quality(_labels_in(first), other and _labels_in(other), true, options.tolerance)
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(quality, indent=2) if options.json else format_quality(quality))
    return 0


def _labels_in(folder: Path) -> Path:
    """The folder itself, or of a run the labels of the split that it was clustered on."""
    if has_manifest(folder):
        return folder
    found = [place for place in find_artifacts(folder) if place.parent.name == "labels"]
    trained_on = [place for place in found if place.name == "train"] or found
    if len(trained_on) == 1:
        return trained_on[0]
    listed = ", ".join(map(str, trained_on)) or "no pseudo-labels below it"
    allowed = "a folder of pseudo-labels, or of a run that has made one set for the data that it was clustered on"
    raise ArtifactError(problem(str(folder), found=listed, allowed=allowed))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number, 0 or more")
    return share


if __name__ == "__main__":
    sys.exit(main())
