"""Clusters features into a codebook. One that was stopped resumes after its last iteration.

    vissl-clusterfit cluster run/features run/codebook --num-clusters 1000
    vissl-clusterfit cluster run/features run/codebook --num-clusters 1000 --metric cosine --num-iter 20 --seed 1
    vissl-clusterfit cluster run/features run/codebook --num-clusters 1e6 --num-coarse-clusters 1000

FEATURES is the folder of a feature store, as `import features` makes one, or a .npy file of rows. A folder that holds
the codebook of the same features and settings is left as it is. Exit code 0, or 2 if something does not fit.
"""

from __future__ import annotations

import argparse

from vissl_clusterfit.commands.parsing import count, progress_shown, say_end, share
from vissl_clusterfit.errors import ConfigError, problem

_TWO_LEVELS = "with two levels only, which --num-coarse-clusters makes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("features", metavar="FEATURES", help="the folder of a feature store, or a .npy file")
    parser.add_argument("codebook", metavar="FOLDER", help="of the codebook")
    parser.add_argument("--num-clusters", type=count, required=True, metavar="K")
    parser.add_argument("--metric", choices=("l2", "cosine"), default="l2", help="cosine: spherical k-means")
    parser.add_argument("--num-iter", type=count, default=50, metavar="I", help="at most (%(default)s)")
    parser.add_argument(
        "--time-limit", type=share, default=0.0, metavar="SECONDS", help="begin no iteration that would end later"
    )
    parser.add_argument("--seed", type=count, default=0, help="draws the first centroids (%(default)s)")
    parser.add_argument(
        "--start",
        default="k-means++",
        help="k-means++, random, hierarchical (quick), or the folder of a codebook to go on from",
    )
    parser.add_argument("--no-normalize", action="store_true", help="leave the lengths of features as they are")
    parser.add_argument("--num-components", type=count, default=0, metavar="P", help="of a PCA; 0 for none")
    parser.add_argument("--whiten", action="store_true", help="scale the components to unit variance")
    parser.add_argument("--num-coarse-clusters", type=count, default=0, metavar="C", help="cluster on two levels")
    parser.add_argument(
        "--refinement-iterations",
        type=count,
        metavar="I",
        help="after two levels, of all clusters at once, across the borders of coarse ones (4)",
    )
    parser.add_argument("--backend", choices=("torch", "faiss"), default="torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def run(options: argparse.Namespace) -> int:
    """Makes the codebook."""
    from vissl_clusterfit.api import make_codebook
    from vissl_clusterfit.commands.places import features_in

    refinement = {}
    if options.refinement_iterations is not None:
        if not options.num_coarse_clusters:
            raise ConfigError(
                problem("--refinement-iterations", found=options.refinement_iterations, allowed=_TWO_LEVELS)
            )
        refinement["refinement_iterations"] = options.refinement_iterations
    with progress_shown():
        codebook = make_codebook(
            features_in(options.features),
            options.codebook,
            options.num_clusters,
            metric=options.metric,
            num_iter=options.num_iter,
            time_limit=options.time_limit,
            seed=options.seed,
            start=options.start,
            normalize=not options.no_normalize,
            num_components=options.num_components,
            whiten=options.whiten,
            num_coarse_clusters=options.num_coarse_clusters,
            **refinement,
            backend=options.backend,
            device=options.device,
        )
    say_end(
        f"{codebook.folder}: {codebook.num_clusters} clusters of dimension {codebook.centroids.shape[1]}",
        then=["label", options.features, codebook.folder, codebook.folder.with_name("labels")],
    )
    return 0
