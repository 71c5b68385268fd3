"""Clustering on two levels, on data whose small groups the borders of coarse clusters cut: what a refinement wins back.

    make bench BENCH=two_level                              some three minutes on two cores
    python benchmarks/two_level.py --sizes 50000x64x4096x64x2000 --refinements 0 4 8

A size is N x D x K x C x G: vectors around G random middles, with as much variance within the groups as between them,
scaled to unit length. Objectives are of an exact search of all centroids; ``labels`` is the mean squared distance to
the centroids that labels name, of up to 16,384 vectors. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from inputs import machine, objective

from vissl_clusterfit import import_features
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.features.store import FeatureStore

SIZES = ("50000x64x4096x64x2000", "50000x256x4096x64x400")
NUM_ITER, LABELLED = 20, 16_384


def cut_groups(num_vectors: int, dim: int, num_groups: int, seed: int = 0) -> np.ndarray:
    """(N, D) float32."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((num_groups, dim), dtype=np.float32)
    rows = middles[rng.integers(num_groups, size=num_vectors)]
    rows += rng.standard_normal(rows.shape, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run(store: FeatureStore, rows: np.ndarray, folder: Path, **settings: int) -> dict[str, float]:
    """Seconds and objectives of one clustering."""
    begun = time.perf_counter()
    codebook = fit_codebook(
        store, ClusterFitConfig(output_dir=str(folder), num_iter=NUM_ITER, **settings), "cpu", folder / "codebook"
    )
    seconds = time.perf_counter() - begun
    search, some = codebook.search(), rows[:LABELLED]
    begun = time.perf_counter()
    distances = search.nearest(some)[1]
    labelling = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "objective": objective(rows, codebook.centroids),
        "labels": float(distances.mean(dtype=np.float64)),
        "labels_exact": objective(some, codebook.centroids),
        "labelling_seconds": labelling,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--refinements", nargs="+", type=int, default=(0, ClusterFitConfig().refinement_iterations))
    arguments = parser.parse_args()
    found = []
    for size in arguments.sizes:
        num_vectors, dim, num_clusters, num_coarse, num_groups = map(int, size.split("x"))
        rows = cut_groups(num_vectors, dim, num_groups)
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            store = import_features(rows, place / "features")
            sides = {"one level": {"num_coarse_clusters": 0}} | {
                f"two levels, {number} refinements": {
                    "num_coarse_clusters": num_coarse,
                    "refinement_iterations": number,
                }
                for number in arguments.refinements
            }
            for side, settings in sides.items():
                figures = run(store, rows, place / side, num_clusters=num_clusters, **settings)
                found.append({"size": size, "side": side, **figures})
                print(found[-1], flush=True)
    print(json.dumps({"benchmark": "two_level", "iterations": NUM_ITER, "runs": found, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
