"""How memory and time of clustering grow: with the number of samples, and with the number of clusters.

    make bench BENCH=growth                 some ten minutes on two cores, 1.2 GB of scratch disk

Features of dimension 512 in float16 on disk, to a codebook, every iteration over all features, in a process of its own
each time: N = 100,000 and 1,000,000 at K = 1,000, and K = 1,000 to 16,000 at N = 100,000. What a million features will
take is measured first, as it is for users where it takes minutes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from inputs import clustered_features, machine, write_store
from processes import in_own_process, measured

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.planner import announce
from vissl_clusterfit.planner.announce import announce_clustering
from vissl_clusterfit.search.torch_search import fast_product_type

DIM, NUM_ITER, SHARD_SIZE = 512, 4, 10_000
# Products of a clustering that is measured first: that of a million features is.
WORTH_MEASURING = 1e12
MANY_SAMPLES, MANY_CLUSTERS = (100_000, 1_000_000), (1000, 2000, 4000, 8000, 16_000)


def write_features(folder: Path, num_samples: int) -> None:
    """Ten kinds of shards, in turn: a million features are not made at once."""

    def rows(low: int, high: int) -> np.ndarray:
        return clustered_features(high - low, DIM, seed=low // SHARD_SIZE % 10)

    write_store(folder, num_samples, SHARD_SIZE, "float16", rows)


def cluster(folder: Path, num_clusters: int) -> None:
    features = FeatureSettings(normalize=True, test_partition="")
    store = FeatureStore.open(folder)
    with tempfile.TemporaryDirectory() as scratch:
        settings = ClusterFitConfig(
            output_dir=scratch, num_clusters=num_clusters, num_iter=NUM_ITER, growing_sample=False, features=features
        )
        announce_clustering(store, settings, "cpu")
        fit_codebook(store, settings, "cpu", settings.paths.codebook)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--clusters", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.store:
        fast_product_type("cpu")
        announce._WORTH_MEASURING = WORTH_MEASURING
        measured(lambda: cluster(arguments.store, arguments.clusters))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        stores = {number: Path(scratch) / str(number) for number in MANY_SAMPLES}
        for number, folder in stores.items():
            write_features(folder, number)

        def figures(num_samples: int, num_clusters: int) -> dict[str, float]:
            command = (__file__, "--store", str(stores[num_samples]), "--clusters", str(num_clusters))
            runs = [in_own_process(*command) for _ in range(arguments.repeats)]
            result = {field: statistics.median(run[field] for run in runs) for field in ("seconds", "mebibytes")}
            print(num_samples, num_clusters, result, flush=True)
            return result

        samples = {number: figures(number, MANY_CLUSTERS[0]) for number in MANY_SAMPLES}
        clusters = {number: figures(MANY_SAMPLES[0], number) for number in MANY_CLUSTERS}
    few, many = (samples[number] for number in MANY_SAMPLES)
    steps = [
        (clusters[more]["seconds"] / clusters[less]["seconds"]) / (more / less)
        for less, more in itertools.pairwise(MANY_CLUSTERS)
    ]
    report = {
        "benchmark": "growth",
        "memory_ratio": many["mebibytes"] / few["mebibytes"],
        # 1 is linear; below it, time grows more slowly.
        "time_over_linear_in_samples": many["seconds"] / few["seconds"] / (MANY_SAMPLES[1] / MANY_SAMPLES[0]),
        "time_over_linear_in_clusters": max(steps),
        "samples": samples,
        "clusters": clusters,
        "iterations": NUM_ITER,
        "dim": DIM,
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
