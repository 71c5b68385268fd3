"""k-means against faiss.Kmeans, and against scikit-learn's MiniBatchKMeans at equal objective, in pairs.

    make bench BENCH=kmeans                 all sizes, some half an hour on two cores
    python benchmarks/kmeans.py --sizes 100000x512x1000 --pairs 1

Both sides get the same features in memory, the same K, number of iterations and threads. What is timed is the whole of
it: drawing the first centroids, all iterations, the centroids at the end. The objective of both is then measured by one
exact search over all features. The last line is one JSON object; `ratio` is peer's seconds over ours.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time

import faiss
import numpy as np
import torch
from inputs import clustered_features, geometric_mean, machine, objective
from sklearn.cluster import MiniBatchKMeans

from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, kmeans
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch

SIZES = ("200000x512x1000", "200000x512x4096", "200000x2048x1000", "100000x2048x4096")
NUM_ITER = 20
#: An objective may be so much worse than the peer's.
TOLERANCE = 1.001


def ours(features: np.ndarray, num_clusters: int, seed: int, num_iter: int = NUM_ITER, **options) -> np.ndarray:
    options = {"start": KMEANS_PLUSPLUS, "growing": True, **options}
    search = functools.partial(TorchSearch, device="cpu")
    return kmeans(ArraySource(features), num_clusters, num_iter, seed, search, **options).centroids


def faiss_kmeans(features: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    peer = faiss.Kmeans(
        features.shape[1],
        num_clusters,
        niter=NUM_ITER,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),  # every point is used, as by us
    )
    peer.train(features)
    return peer.centroids


def timed(work, *args, **options) -> tuple[float, np.ndarray]:
    begun = time.perf_counter()
    centroids = work(*args, **options)
    return time.perf_counter() - begun, centroids


def against_faiss(size: str, num_pairs: int) -> dict:
    num_samples, dim, num_clusters = map(int, size.split("x"))
    features = clustered_features(num_samples, dim)
    pairs = []
    for seed in range(num_pairs):
        sides = [("faiss", faiss_kmeans), ("ours", ours)]
        figures = {name: timed(work, features, num_clusters, seed) for name, work in sides[:: 1 if seed % 2 else -1]}
        pair = {name: {"seconds": t, "objective": objective(features, c)} for name, (t, c) in figures.items()}
        pairs.append(pair)
        print(size, {name: {k: round(v, 5) for k, v in side.items()} for name, side in pair.items()}, flush=True)
    return {
        "size": size,
        "ratio": statistics.median(pair["faiss"]["seconds"] / pair["ours"]["seconds"] for pair in pairs),
        "faiss_seconds": statistics.median(pair["faiss"]["seconds"] for pair in pairs),
        "our_seconds": statistics.median(pair["ours"]["seconds"] for pair in pairs),
        "objective_ratio": statistics.median(pair["ours"]["objective"] / pair["faiss"]["objective"] for pair in pairs),
    }


def without_heuristics(num_pairs: int, size: str = "50000x512x1000") -> dict:
    """Lloyd's algorithm alone, from the same start: the same objective to float32, so the search alone is compared."""
    num_samples, dim, num_clusters = map(int, size.split("x"))
    features = clustered_features(num_samples, dim)
    start = features[np.random.default_rng(0).choice(num_samples, num_clusters, replace=False)]
    ratios, objectives = [], []
    for _ in range(num_pairs):
        peer = faiss.Kmeans(dim, num_clusters, niter=NUM_ITER, max_points_per_centroid=num_samples)
        begun = time.perf_counter()
        peer.train(features, init_centroids=start)
        theirs = time.perf_counter() - begun
        seconds, centroids = timed(ours, features, num_clusters, 0, growing=False, initial_centroids=start)
        ratios.append(theirs / seconds)
        objectives.append(objective(features, centroids) / objective(features, peer.centroids))
    return {"size": size, "ratio": statistics.median(ratios), "objective_ratio": statistics.median(objectives)}


def against_mini_batches(num_pairs: int, size: str = "100000x512x1000") -> dict:
    """Ours with the fewest iterations that reach their objective."""
    num_samples, dim, num_clusters = map(int, size.split("x"))
    features = clustered_features(num_samples, dim)
    peer = MiniBatchKMeans(num_clusters, batch_size=4096, n_init=1, max_iter=20, random_state=0)
    begun = time.perf_counter()
    peer.fit(features)
    theirs, goal = time.perf_counter() - begun, objective(features, peer.cluster_centers_.astype(np.float32))
    for num_iter in (1, 2, 4, 8, 12, 20, 40):
        pairs = [timed(ours, features, num_clusters, seed, num_iter) for seed in range(num_pairs)]
        reached = statistics.median(objective(features, centroids) for _, centroids in pairs)
        if reached <= goal:
            break
    seconds = statistics.median(seconds for seconds, _ in pairs)
    return {
        "size": size,
        "ratio": theirs / seconds,
        "their_objective": goal,
        "our_objective": reached,
        "our_iterations": num_iter,
        "their_seconds": theirs,
        "our_seconds": seconds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="NxDxK")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    sizes = [against_faiss(size, arguments.pairs) for size in arguments.sizes]
    ratios = [size["ratio"] for size in sizes]
    fair = all(size["objective_ratio"] <= TOLERANCE for size in sizes)
    report = {
        "benchmark": "kmeans",
        "ratio": geometric_mean(ratios),
        "min_ratio": min(ratios),
        "objective_within_0.1_percent": fair,
        "iterations": NUM_ITER,
        "sizes": sizes,
        "without_heuristics": without_heuristics(arguments.pairs),
        "mini_batch_kmeans": against_mini_batches(arguments.pairs),
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if fair else 1


if __name__ == "__main__":
    sys.exit(main())
