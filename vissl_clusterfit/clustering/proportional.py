"""How many of K clusters each of several groups of vectors gets."""

from __future__ import annotations

import numpy as np


def shares_of_clusters(sizes: np.ndarray, num_clusters: int) -> np.ndarray:
    """How many of K fine clusters each coarse one gets: in proportion to its vectors, by largest remainders.

    Those with vectors get one at least, and none more than its vectors.

    Args:
        sizes: (C,) int64, the vectors of each coarse cluster, N in all.
        num_clusters: K, at least the number of coarse clusters with vectors and at most N.

    Returns:
        (C,) int64, K in all.
    """
    sizes = sizes.astype(np.int64)
    total = int(sizes.sum())
    exact = sizes * num_clusters  # in units of 1 / N of a cluster, so that nothing is rounded
    given = np.maximum(exact // total, np.minimum(sizes, 1))
    lacks = exact - given * total
    missing = num_clusters - int(given.sum())
    if missing > 0:
        given[np.argsort(-lacks, kind="stable")[:missing]] += 1
    for _ in range(-missing):  # the smallest got more than their part; who is nearest to having too many gives one
        giver = np.flatnonzero(given > 1)[lacks[given > 1].argmin()]
        given[giver] -= 1
        lacks[giver] += total
    return given
