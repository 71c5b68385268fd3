"""Category-level retrieval, mAP over all relevant samples, against scikit-learn and faiss, in pairs, on equal figures.

    make bench BENCH=retrieval                            all sizes, a minute or two on two cores
    python benchmarks/retrieval.py --sizes 1000x10000x512 --pairs 1

A size is queries x gallery x dimensions. All sides get the same float32 features of unit norm in memory and as many
threads, and end with the average precision of each query. scikit-learn is ``average_precision_score`` for one query
after the other, as many at a time as there are threads, on similarities from NumPy's product in float32; faiss is a
full ranking by ``IndexFlatIP``, with the average precisions in NumPy. What is timed is all of it. The last line is one
JSON object; a ratio is a peer's seconds over ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import torch
from inputs import labelled_features
from pairs import in_pairs, print_report
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from vissl_clusterfit.transfer.retrieval import category_retrieval

SIZES = ("1000x10000x512", "500x50000x512", "500x50000x2048")
#: Queries of which the peers hold all similarities at a time.
CHUNK = 256
PEERS = ("scikit-learn", "faiss")
#: By so much an average precision may differ: the peers' similarities are rounded to float32.
TOLERANCE = 1e-3


def ours(queries: np.ndarray, wanted: np.ndarray, gallery: np.ndarray, present: np.ndarray) -> np.ndarray:
    return category_retrieval(queries, wanted, gallery, present).average_precisions


def scikit_learn(queries: np.ndarray, wanted: np.ndarray, gallery: np.ndarray, present: np.ndarray) -> np.ndarray:
    found = np.empty(len(queries))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(queries), CHUNK):
            cosines = queries[start : start + CHUNK] @ gallery.T
            relevant = (present == label for label in wanted[start : start + CHUNK])
            found[start : start + CHUNK] = [*pool.map(average_precision_score, relevant, cosines)]
    return found


def with_faiss(queries: np.ndarray, wanted: np.ndarray, gallery: np.ndarray, present: np.ndarray) -> np.ndarray:
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    found = np.empty(len(queries))
    nth = np.arange(1, len(gallery) + 1)
    for start in range(0, len(queries), CHUNK):
        _, ranking = index.search(queries[start : start + CHUNK], len(gallery))
        for query, order in enumerate(ranking, start):
            places = np.flatnonzero(present[order] == wanted[query]) + 1
            found[query] = np.mean(nth[: len(places)] / places)
    return found


SIDES: dict[str, Callable[..., np.ndarray]] = {"ours": ours, "scikit-learn": scikit_learn, "faiss": with_faiss}


def compare(size: str, num_pairs: int) -> dict:
    """One size: medians of seconds and of the ratios of pairs, and how far the average precisions lie apart."""
    num_queries, num_gallery, dim = map(int, size.split("x"))
    features, labels = labelled_features(num_queries + num_gallery, dim)
    data = features[:num_queries], labels[:num_queries], features[num_queries:], labels[num_queries:]
    assert np.isin(data[1], data[3]).all(), "each query has a match"
    found, timed = in_pairs(SIDES, data, num_pairs, size)
    return {
        "size": size,
        **timed,
        "apart": {side: float(np.abs(found[side] - found["ours"]).max()) for side in PEERS},
        "mean_average_precision": float(found["ours"].mean()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="QUERIESxGALLERYxDIM")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    with threadpool_limits(threads):
        sizes = [compare(size, arguments.pairs) for size in arguments.sizes]
    agree = all(apart <= TOLERANCE for size in sizes for apart in size["apart"].values())
    print_report("retrieval", sizes, PEERS, figures_agree=agree, pairs=arguments.pairs)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
