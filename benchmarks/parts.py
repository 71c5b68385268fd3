"""Iterations that see a part of the vectors against Lloyd's iterations: passes and objective.

    make bench BENCH=parts

The objective is that of an exact search over all vectors, the mean over three seeds. The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys

import numpy as np
from inputs import clustered_features, machine, objective

from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, kmeans
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.backends import TORCH, search_factory

SIZES = ("100000x128x1000", "50000x64x2000", "200000x64x200")
NUMS_ITER = (20, 50)
SEEDS = (0, 1, 2)


def run(features: np.ndarray, num_clusters: int, num_iter: int, *, growing: bool) -> dict[str, float]:
    """Passes and objective."""
    factory = search_factory(TORCH, "cpu")
    found = [
        kmeans(ArraySource(features), num_clusters, num_iter, seed, factory, start=KMEANS_PLUSPLUS, growing=growing)
        for seed in SEEDS
    ]
    return {
        "passes": statistics.mean(sum(result.shares) for result in found),
        "objective": statistics.mean(objective(features, result.centroids) for result in found),
    }


def main() -> int:
    rows = []
    for size in SIZES:
        num_samples, dim, num_clusters = map(int, size.split("x"))
        features = clustered_features(num_samples, dim)
        for num_iter in NUMS_ITER:
            lloyd, parts = (run(features, num_clusters, num_iter, growing=growing) for growing in (False, True))
            rows.append(
                {
                    "size": size,
                    "iterations": num_iter,
                    "lloyd_passes": lloyd["passes"],
                    "passes": parts["passes"],
                    "objective_ratio": parts["objective"] / lloyd["objective"],
                }
            )
            print(rows[-1], flush=True)
    print(json.dumps({"benchmark": "parts", "seeds": len(SEEDS), "sizes": rows, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
