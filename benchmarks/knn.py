"""Nearest-neighbour classification against scikit-learn and faiss, in pairs, on equal predictions.

    make bench BENCH=knn                                  all sizes, a minute or two on two cores
    python benchmarks/knn.py --sizes 2000x50000x512x20 --pairs 1

A size is queries x gallery x dimensions x neighbours. All sides get the same float32 features of unit norm in memory
and as many threads, and end with a class for each query by the vote exp(cosine / 0.07). scikit-learn is
``KNeighborsClassifier`` by brute force with Euclidean distances (on unit vectors their order is that of cosines, and
this is its fast path: with ``metric="cosine"`` it holds the whole matrix of a chunk in float64); faiss is
``IndexFlatIP`` with a vote in NumPy. What is timed is all of it, from the features to the classes. The last line is one
JSON object; a ratio is a peer's seconds over ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import faiss
import numpy as np
import torch
from inputs import labelled_features
from pairs import in_pairs, print_report
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from vissl_clusterfit.transfer.knn import KnnSettings, knn_predict

SIZES = ("2000x50000x512x20", "2000x50000x512x200", "1000x50000x2048x20", "1000x200000x512x20")
TEMPERATURE = 0.07
#: Predictions that may differ from a peer's: faiss rounds similarities to float32, scikit-learn and we do not.
MAY_DIFFER = {"scikit-learn": 0.0002, "faiss": 0.002}


def ours(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    return knn_predict(queries, gallery, labels, KnnSettings(k, TEMPERATURE))


def scikit_learn(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - np.square(distances) / 2) / TEMPERATURE)

    peer = KNeighborsClassifier(k, algorithm="brute", metric="euclidean", weights=weights)
    return peer.fit(gallery, labels).predict(queries)


def with_faiss(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    cosines, neighbors = index.search(queries, k)
    num_classes = int(labels.max()) + 1
    places = np.arange(len(queries))[:, np.newaxis] * num_classes + labels[neighbors]
    weights = np.exp(cosines / TEMPERATURE).ravel()
    votes = np.bincount(places.ravel(), weights, minlength=len(queries) * num_classes)
    return votes.reshape(len(queries), num_classes).argmax(axis=1)


SIDES: dict[str, Callable[..., np.ndarray]] = {"ours": ours, "scikit-learn": scikit_learn, "faiss": with_faiss}


def compare(size: str, num_pairs: int) -> dict:
    """One size: medians of seconds and of the ratios of pairs, and how many predictions differ."""
    num_queries, num_gallery, dim, k = map(int, size.split("x"))
    features, labels = labelled_features(num_queries + num_gallery, dim)
    data = features[:num_queries], features[num_queries:], labels[num_queries:], k
    found, timed = in_pairs(SIDES, data, num_pairs, size)
    return {
        "size": size,
        **timed,
        "differing": {side: float(np.mean(found[side] != found["ours"])) for side in MAY_DIFFER},
        "accuracy": float(np.mean(found["ours"] == labels[:num_queries])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="QUERIESxGALLERYxDIMxK")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    with threadpool_limits(threads):
        sizes = [compare(size, arguments.pairs) for size in arguments.sizes]
    agree = all(size["differing"][side] <= share for size in sizes for side, share in MAY_DIFFER.items())
    print_report(
        "knn", sizes, list(MAY_DIFFER), predictions_agree=agree, temperature=TEMPERATURE, pairs=arguments.pairs
    )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
