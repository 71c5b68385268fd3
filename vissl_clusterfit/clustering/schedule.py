"""How much of the data each iteration sees: a sample that grows, and all of it at the end.

The first iterations move centroids far, and a sample says where to nearly as well as all vectors. It is a heuristic:
the last iterations, one in six, and the labels see every vector.
"""

from __future__ import annotations

# Fewer vectors per cluster say too little about its mean.
_VECTORS_PER_CLUSTER = 24
_SMALLEST_SHARE = 1 / 16
_FEWEST_ITERATIONS = 4


def shares(num_iter: int, num_vectors: int, num_clusters: int, *, growing: bool) -> list[float]:
    """The share of all vectors that each iteration sees, never less than the one before; 1 for the last ones.

    Args:
        num_iter: number of iterations.
        num_vectors: N.
        num_clusters: K.
        growing: whether to begin with a sample; else each share is 1.
    """
    smallest = 1.0
    while smallest / 2 >= _SMALLEST_SHARE and num_vectors * smallest / 2 >= _VECTORS_PER_CLUSTER * num_clusters:
        smallest /= 2
    if not growing or smallest == 1 or num_iter < _FEWEST_ITERATIONS:
        return [1.0] * num_iter
    last = max(2, num_iter // 6)
    steps = []  # those below 1, the smallest first
    while smallest < 1:
        steps.append(smallest)
        smallest *= 2
    early = num_iter - last
    return [steps[number * len(steps) // early] for number in range(early)] + [1.0] * last
