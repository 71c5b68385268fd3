"""Labels for other programs.

    vissl-clusterfit export labels run/labels labels.csv
    vissl-clusterfit export labels runs/student labels.parquet
    vissl-clusterfit export labels run/labels labels.npy --images /path/to/images
    vissl-clusterfit export labels run/labels classes/ --images /path/to/images

The end of the path says how: .csv, .jsonl and .parquet have the name, label, distance and margin of each sample, and
its nearest clusters where there are several; .npy is what VISSL's disk_filelist reads; a folder gets one folder for
each cluster, of links to the images. What is there already is refused, never written over.
Exit code 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse

from vissl_clusterfit.commands.parsing import progress_shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="labels")
    labels = kinds.add_parser("labels", description="Labels as a file, or as class folders of links.")
    labels.add_argument("labels", metavar="LABELS", help="a folder of labels, or of the run that made them")
    labels.add_argument("path", metavar="PATH", help="of the file or folder")
    labels.add_argument("--images", metavar="DIR", help="the folder in which the names are paths")
    labels.add_argument(
        "--names", metavar="FILE", help="of the samples, in order, where the labels have none with them"
    )


def run(options: argparse.Namespace) -> int:
    """Exports what the options name."""
    from pathlib import Path

    from vissl_clusterfit.commands.places import labels_in
    from vissl_clusterfit.features.imports import read_name_list
    from vissl_clusterfit.labels.export import export_labels
    from vissl_clusterfit.storage.paths import artifact_path

    names = None if options.names is None else read_name_list(Path(options.names))
    labels = labels_in(artifact_path(options.labels, "LABELS"))
    with progress_shown():
        path = export_labels(labels, options.path, images=options.images, names=names)
    print(path)
    return 0
