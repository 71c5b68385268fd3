"""Draws a sample that is balanced over clusters, as a list for other programs.

    vissl-clusterfit sample run/labels list.csv --count 100000
    vissl-clusterfit sample run/labels list.npy --count 1e6 --codebook run/codebook --levels 1000 100

Each cluster gives as many samples as any other, or all that it has. With --levels, the centroids are clustered into so
many, and these again: the coarsest are balanced first, then the clusters within each. A codebook of two levels brings
its own. .csv has index, label and name of each sample; .npy the indices. The same seed draws the same samples. What is
there already is refused, never written over. Exit code 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse

from vissl_clusterfit.commands.parsing import count, say_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("labels", metavar="LABELS", help="their folder")
    parser.add_argument("path", metavar="PATH", help="of the list: .csv or .npy")
    parser.add_argument("--count", type=count, required=True, metavar="N", help="how many samples")
    parser.add_argument("--codebook", metavar="CODEBOOK", help="of the labels: for levels")
    parser.add_argument("--levels", type=count, nargs="+", default=[], metavar="C", help="of coarser clusters")
    parser.add_argument("--seed", type=count, default=0, metavar="S", help="(%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Draws the sample."""
    from vissl_clusterfit.commands.places import report_on
    from vissl_clusterfit.labels.sample import draw_balanced
    from vissl_clusterfit.storage.paths import artifact_path

    drawn = draw_balanced(
        options.labels,
        options.count,
        codebook=options.codebook,
        levels=options.levels,
        seed=options.seed,
        path=options.path,
    )
    say_end(f"{options.path}: {len(drawn)} samples", then=report_on(artifact_path(options.labels)))
    return 0
