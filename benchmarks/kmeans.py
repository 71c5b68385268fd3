"""k-means against faiss.Kmeans, faiss.SuperKmeans, superkmeans and scikit-learn's MiniBatchKMeans: time and objective.

    make bench BENCH=kmeans                 all sizes, an hour on two cores
    python benchmarks/kmeans.py --sizes 100000x512x1000 --pairs 1
    python benchmarks/kmeans.py --features features.npy --sizes 30000x512x1000      (benchmarks/trained_features.py)

All sides get the same features in memory, the same K and threads. What is timed is the whole of it: drawing the first
centroids, all iterations, the centroids at the end. The objective is then measured by one exact search over all
features. Two questions are asked at each size: how long do equal iterations take (20), and does our curve dominate: for
each point of a peer, some setting of ours ends no higher (to within 0.05 %) in no more time. The package superkmeans is
an extra of this benchmark, `pip install superkmeans==0.2.0`; without it its rows are left out. The last line is one
JSON object; `ratio` is the peer's seconds over ours.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import faiss
import numpy as np
import torch
from inputs import clustered_features, geometric_mean, machine, objective
from sklearn.cluster import MiniBatchKMeans

from vissl_clusterfit.clustering.kmeans import HIERARCHICAL, KMEANS_PLUSPLUS, kmeans
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch

try:
    import superkmeans
except ImportError:
    superkmeans = None

SIZES = ("100000x512x1000", "100000x512x4096", "100000x2048x1000", "100000x2048x4096", "100000x768x4096")
NUM_ITER = 20
#: An objective may be so much worse than the peer's.
TOLERANCE = 1.0005
#: A way to centroids: of features, K and a seed.
Side = Callable[[np.ndarray, int, int], np.ndarray]


def ours(features: np.ndarray, num_clusters: int, seed: int, num_iter: int = NUM_ITER, **options) -> np.ndarray:
    options = {"start": KMEANS_PLUSPLUS, "growing": True, **options}
    search = functools.partial(TorchSearch, device="cpu")
    return kmeans(ArraySource(features), num_clusters, num_iter, seed, search, **options).centroids


def of_faiss(kind: type, features: np.ndarray, num_clusters: int, seed: int, num_iter: int = NUM_ITER) -> np.ndarray:
    peer = kind(
        features.shape[1],
        num_clusters,
        niter=num_iter,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),  # every point is used, as by us
    )
    peer.train(features)
    return peer.centroids


def of_superkmeans(features: np.ndarray, num_clusters: int, seed: int, **options) -> np.ndarray:
    peer = superkmeans.SuperKMeans(
        num_clusters, features.shape[1], seed=seed, n_threads=torch.get_num_threads(), **options
    )
    return np.ascontiguousarray(peer.train(features), dtype=np.float32)


def all_iterations(num_iter: int) -> dict:
    """superkmeans with every point, and every iteration that it is asked for."""
    return {
        "hierarchical": False,
        "iters": num_iter,
        "sampling_fraction": 1.0,
        "max_points_per_cluster": 1 << 30,
        "early_termination": False,
    }


def equal_iterations() -> dict[str, Side]:
    """Each side with as many iterations over every point."""
    sides: dict[str, Side] = {
        "faiss.Kmeans": functools.partial(of_faiss, faiss.Kmeans),
        "faiss.SuperKmeans": functools.partial(of_faiss, faiss.SuperKmeans),
    }
    if superkmeans is not None:
        sides["superkmeans"] = functools.partial(of_superkmeans, **all_iterations(NUM_ITER))
    return {**sides, "ours": ours}


def curves() -> dict[str, dict[str, Side]]:
    """Of each side its settings, by name."""
    numbers = (1, 3, 9, 14, NUM_ITER, 30)
    own = {f"hierarchical {n}": functools.partial(ours, num_iter=n, start=HIERARCHICAL) for n in numbers}
    own |= {f"default {n}": functools.partial(ours, num_iter=n) for n in (2, 4, 8, 12, NUM_ITER, 40)}
    found: dict[str, dict[str, Side]] = {
        "ours": own,
        "faiss.SuperKmeans": {
            str(n): functools.partial(of_faiss, faiss.SuperKmeans, num_iter=n) for n in (5, NUM_ITER)
        },
    }
    if superkmeans is not None:
        found["superkmeans"] = {
            "as called": of_superkmeans,
            "hierarchical": functools.partial(of_superkmeans, hierarchical=True),
            **{f"flat {n}": functools.partial(of_superkmeans, **all_iterations(n)) for n in (3, 10, NUM_ITER)},
        }
    return found


def timed(work: Side, features: np.ndarray, num_clusters: int, seed: int) -> dict[str, float]:
    begun = time.perf_counter()
    centroids = work(features, num_clusters, seed)
    return {"seconds": time.perf_counter() - begun, "objective": objective(features, centroids)}


def in_turns(sides: dict, features: np.ndarray, num_clusters: int, num_pairs: int) -> dict:
    """Medians of all sides, which have their turns one after the other, forwards and backwards."""
    runs: dict = {name: [] for name in sides}
    for seed in range(num_pairs):
        for name in list(sides)[:: 1 if seed % 2 else -1]:
            runs[name].append(timed(sides[name], features, num_clusters, seed))
            print(name, {field: round(value, 5) for field, value in runs[name][-1].items()}, flush=True)
    return {
        name: {field: statistics.median(run[field] for run in of) for field in ("seconds", "objective")}
        for name, of in runs.items()
    }


def dominated_by(own: dict, point: dict[str, float]) -> str | None:
    """A setting of ours that ends no higher in no more time; None if there is none."""
    for name, ours in own.items():
        if ours["seconds"] <= point["seconds"] and ours["objective"] <= TOLERANCE * point["objective"]:
            return name
    return None


def at_size(size: str, features: np.ndarray, num_pairs: int, left_out: Collection[str]) -> dict:
    num_clusters = int(size.split("x")[2])
    print(size, flush=True)
    sides = {name: work for name, work in equal_iterations().items() if name not in left_out}
    equal = in_turns(sides, features, num_clusters, num_pairs)
    settings = {side: of for side, of in curves().items() if side not in left_out}
    points = {(side, name): work for side, of in settings.items() for name, work in of.items()}
    found = in_turns(points, features, num_clusters, num_pairs)
    own = {name: point for (side, name), point in found.items() if side == "ours"}
    peers = {f"{side} {name}": point for (side, name), point in found.items() if side != "ours"}
    better = {name: dominated_by(own, point) for name, point in peers.items()}
    peer_names = [name for name in equal if name != "ours"]
    return {
        "size": size,
        "ratios": {name: equal[name]["seconds"] / equal["ours"]["seconds"] for name in peer_names},
        "objective_ratios": {name: equal["ours"]["objective"] / equal[name]["objective"] for name in peer_names},
        "equal_iterations": equal,
        "curve": own,
        "peers_curve": peers,
        "dominated_by": better,
        "dominates": all(better.values()),
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
        own = timed(functools.partial(ours, growing=False, initial_centroids=start), features, num_clusters, 0)
        ratios.append(theirs / own["seconds"])
        objectives.append(own["objective"] / objective(features, peer.centroids))
    return {"size": size, "ratio": statistics.median(ratios), "objective_ratio": statistics.median(objectives)}


def against_mini_batches(num_pairs: int, size: str = "100000x512x1000") -> dict:
    """Ours with the fewest iterations that reach their objective."""
    num_samples, dim, num_clusters = map(int, size.split("x"))
    features = clustered_features(num_samples, dim)

    def mini_batches(features: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
        peer = MiniBatchKMeans(num_clusters, batch_size=4096, n_init=1, max_iter=20, random_state=seed)
        return peer.fit(features).cluster_centers_.astype(np.float32)

    theirs = timed(mini_batches, features, num_clusters, 0)
    for num_iter in (1, 2, 4, 8, 12, 20, 40):
        runs = [timed(functools.partial(ours, num_iter=num_iter), features, num_clusters, s) for s in range(num_pairs)]
        reached = {field: statistics.median(run[field] for run in runs) for field in ("seconds", "objective")}
        if reached["objective"] <= theirs["objective"]:
            break
    ratio = theirs["seconds"] / reached["seconds"]
    return {"size": size, "ratio": ratio, "theirs": theirs, "ours": reached, "our_iterations": num_iter}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="NxDxK")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--features", type=Path, help="a .npy file, in the place of drawn features")
    parser.add_argument("--leave-out", nargs="*", default=(), metavar="SIDE", help="peers that are too slow here")
    parser.add_argument("--sizes-only", action="store_true", help="without mini-batches and Lloyd's algorithm alone")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    if superkmeans is None:
        print("superkmeans is not installed: its rows are left out (pip install superkmeans==0.2.0)", file=sys.stderr)
    sizes = []
    for size in arguments.sizes:
        number, dim, _ = map(int, size.split("x"))
        given = arguments.features
        features = clustered_features(number, dim) if given is None else np.load(given)[:number]
        sizes.append(at_size(size, features, arguments.pairs, arguments.leave_out))
    against = {name: [size["ratios"][name] for size in sizes] for name in sizes[0]["ratios"]}
    fair = all(ratio <= TOLERANCE for size in sizes for ratio in size["objective_ratios"].values())
    report = {
        "benchmark": "kmeans",
        "ratio": {name: geometric_mean(ratios) for name, ratios in against.items()},
        "min_ratio": {name: min(ratios) for name, ratios in against.items()},
        "objective_within_0.05_percent": fair,
        "dominates": all(size["dominates"] for size in sizes),
        "iterations": NUM_ITER,
        "features": "drawn" if arguments.features is None else arguments.features.name,
        "sizes": sizes,
        "machine": machine(),
    }
    if not arguments.sizes_only:
        report["without_heuristics"] = without_heuristics(arguments.pairs)
        report["mini_batch_kmeans"] = against_mini_batches(arguments.pairs)
    print(json.dumps(report))
    return 0 if fair else 1


if __name__ == "__main__":
    sys.exit(main())
