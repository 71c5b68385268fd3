"""Prepares a target data set: ``python tools/prepare_data.py DATA_SET --archives DIR --output DIR [--subset]``.

From the archives in DIR, as their publisher ships them, the data set is unpacked into OUTPUT/DATA_SET, with the lists
of images and labels that the configs clusterfit/transfer/DATA_SET_… read. Nothing is downloaded: docs/datasets.md says
which files are needed. Started again after it was stopped, it resumes. Exit code 0, or 2 if the archives are not what
they should be.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.datasets.preparation import prepare
from vissl_clusterfit.errors import ClusterFitError


def main() -> int:
    """Prepares the data set of the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=sorted(RECIPES))
    parser.add_argument("--archives", type=Path, required=True, metavar="DIR", help="with the publisher's files")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="of all prepared data sets")
    parser.add_argument(
        "--subset",
        action="store_true",
        help="the archives are a part of what is published: check no counts and no sums",
    )
    options = parser.parse_args()
    try:
        recipe = RECIPES[options.data_set]
        manifest = prepare(options.data_set, recipe, options.archives, options.output, subset=options.subset)
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = ", ".join(f"{split} {count}" for split, count in manifest["num_images"].items())
    print(f"{options.output / options.data_set}: {manifest['num_classes']} classes; images: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
