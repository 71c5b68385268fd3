"""Labels features by a codebook, in memory that does not grow with their number.

    vissl-clusterfit label run/features run/codebook run/labels
    vissl-clusterfit label run/features run/codebook run/labels --top-clusters 10
    vissl-clusterfit label other/features run/codebook other/labels --max-distance 0.8

FEATURES are those that were clustered, or others of the same kind: the folder of a feature store, or a .npy file of
rows. Every label has its distance and margin. A folder that holds the labels of the same features, codebook and
settings is left as it is. Exit code 0, or 2 if something does not fit.
"""

from __future__ import annotations

import argparse

from vissl_clusterfit.commands.parsing import count, progress_shown, say_end, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("features", metavar="FEATURES", help="the folder of a feature store, or a .npy file")
    parser.add_argument("codebook", metavar="CODEBOOK", help="its folder")
    parser.add_argument("labels", metavar="FOLDER", help="of the labels")
    parser.add_argument(
        "--max-distance", type=share, metavar="D", help="samples whose squared distance is larger get no label (-1)"
    )
    parser.add_argument("--top-clusters", type=count, default=1, metavar="T", help="keep the T nearest clusters, too")
    parser.add_argument(
        "--max-cluster-size",
        type=share,
        default=0.0,
        metavar="F",
        help="how much larger than the mean a cluster may be, from 1; 0 for no bound",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def run(options: argparse.Namespace) -> int:
    """Makes the labels."""
    from vissl_clusterfit.api import make_labels
    from vissl_clusterfit.commands.places import features_in, report_on

    with progress_shown():
        labels = make_labels(
            features_in(options.features),
            options.codebook,
            options.labels,
            max_distance=options.max_distance,
            top_clusters=options.top_clusters,
            max_cluster_size=options.max_cluster_size,
            device=options.device,
        )
    without = f", {labels.num_unlabelled} without a label" if labels.num_unlabelled else ""
    say_end(f"{labels.folder}: labels of {labels.num_samples} samples{without}", then=report_on(labels.folder))
    return 0
