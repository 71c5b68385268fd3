"""Features or labels that you have already, from files.

    vissl-clusterfit import features features.npy run/features --names names.txt
    vissl-clusterfit import features shards/ run/features
    vissl-clusterfit import labels labels.csv run/labels --for run/features
    vissl-clusterfit import labels labels.npy run/labels --for run/features --names names.txt

Features come as .npy, .npz, .pt, .safetensors, .parquet, or a folder of one of them; what can be mapped is not copied.
Labels come as .csv, .jsonl or .parquet with the columns name and label, or as .npy with --names; they find their
samples by name. Nothing is written before all of it is checked: docs/python.md.
Exit code 0, or 2 if something does not fit.
"""

from __future__ import annotations

import argparse

from vissl_clusterfit.commands.parsing import count, progress_shown, say_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="features | labels")
    features = kinds.add_parser("features", description="Features of yours become a feature store.")
    features.add_argument("source", metavar="SOURCE", help="a file of rows (N, D), or a folder of such files")
    features.add_argument("folder", metavar="FOLDER", help="of the feature store")
    features.add_argument("--names", metavar="FILE", help="of the samples, in the order of the rows: .txt, .csv, .npy")
    features.add_argument("--images", metavar="DIR", help="in which the names are paths, for a training on the folder")
    features.add_argument("--key", default="", help="which array of a file with several, or which column")
    features.add_argument("--copy", action="store_true", help="copy the rows in any case")
    labels = kinds.add_parser("labels", description="Labels from elsewhere become pseudo-labels.")
    labels.add_argument("source", metavar="SOURCE", help="a .csv, .jsonl, .parquet or .npy file")
    labels.add_argument("folder", metavar="FOLDER", help="of the labels")
    labels.add_argument(
        "--for", dest="data", required=True, metavar="DATA", help="features, or other labels, of the same samples"
    )
    labels.add_argument("--names", metavar="FILE", help="of the rows of a .npy file")
    labels.add_argument("--num-clusters", type=count, metavar="K", help="the largest label and one, if it is not given")


def run(options: argparse.Namespace) -> int:
    """Imports what the options name."""
    with progress_shown():
        made, then = _import(options)
        say_end(made, then=then)
    return 0


def _import(options: argparse.Namespace) -> tuple[str, list[object]]:
    """What was made, and where; the command to go on with."""
    from vissl_clusterfit.commands.places import clustering_of, report_on

    if options.kind == "features":
        from vissl_clusterfit.features.imports import import_features

        store = import_features(
            options.source,
            options.folder,
            names=options.names,
            images=options.images,
            key=options.key,
            copy=options.copy,
        )
        return f"{store.folder}: {store.num_samples} features of dimension {store.dim}", clustering_of(store)
    from vissl_clusterfit.api import open_artifact
    from vissl_clusterfit.clustering.codebook import Codebook
    from vissl_clusterfit.errors import ArtifactError, problem
    from vissl_clusterfit.labels.imports import import_labels

    data = open_artifact(options.data)
    if isinstance(data, Codebook):
        allowed = "a folder of features, or of labels, of the same samples"
        raise ArtifactError(problem("--for", found=f"{options.data}, a codebook", allowed=allowed))
    made = import_labels(options.source, options.folder, data, names=options.names, num_clusters=options.num_clusters)
    done = f"{made.folder}: labels of {made.num_samples} samples, {made.num_clusters[0]} clusters"
    return done, report_on(made.folder)
