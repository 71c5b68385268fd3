"""Where the true class stands among the classes that the nearest neighbours vote for: VISSL's kNN benchmark.

Shapes in names: Q queries of one chunk, K neighbours, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.transfer.checks import validate_labels
from vissl_clusterfit.transfer.neighbors import nearest_neighbors
from vissl_clusterfit.transfer.rows import Rows

# Votes are compared on this grid: sums of the same weights in another order differ by 1e-16, and should tie.
_VOTE_GRID = 2**30


def true_class_ranks(
    queries: Rows,
    query_labels: np.ndarray,
    gallery: Rows,
    gallery_labels: np.ndarray,
    *,
    num_neighbors: int,
    temperature: float,
    similarity: str,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """How many classes stand before the true one, for each query: 0 where the prediction is right.

    With the neighbours N_k of a query by similarity s_i, and their classes c_i, the vote for a class is ::

        v_c = sum over i in N_k of  exp(s_i / T) * [c_i = c]

    (Wu et al., CVPR 2018, section 3.4; ``tools/nearest_neighbor_test.py`` of VISSL.) Classes stand in descending order
    of their votes, of equal ones the smaller number first. A class without any vote stands nowhere, where VISSL ranks
    all of them by their number: with one neighbour, four of its first five are guesses. The sums are taken as
    logarithms: with dot products of features that are not scaled, exp(s / T) overflows float32, where VISSL's figures
    become NaN.

    Args:
        queries: ``(num_queries, dim)``.
        query_labels: ``(num_queries,)`` whole numbers from 0; one that the gallery lacks has no vote.
        gallery: ``(num_gallery, dim)``.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0.
        num_neighbors: k, at most the size of the gallery.
        temperature: T.
        similarity: "cosine" or "dot".
        device: Where the similarities are computed.

    Returns:
        ``(num_queries,)`` int64, each below the number of classes, or equal to it for a class that has no vote.

    Raises:
        ConfigError: the temperature is not above 0, or there are more neighbours than gallery samples.
        DataError: features or labels that cannot be used.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(problem("temperature", found=temperature, allowed="numbers above 0"))
    labels = torch.from_numpy(validate_labels(gallery_labels, len(gallery), "gallery_labels"))
    expected = torch.from_numpy(validate_labels(query_labels, len(queries), "query_labels"))
    num_classes = int(labels.max()) + 1
    ranks, start = [], 0
    for similarities, indices in nearest_neighbors(
        queries, gallery, num_neighbors, similarity=similarity, device=device
    ):
        expected_Q = expected[start : start + len(indices)]
        ranks.append(_ranks(similarities.cpu() / temperature, labels[indices.cpu()], expected_Q, num_classes))
        start += len(indices)
    return torch.cat(ranks).numpy()


def _ranks(logits_QK: Tensor, labels_QK: Tensor, expected_Q: Tensor, num_classes: int) -> Tensor:
    logits_QK = logits_QK - logits_QK[:, :1]
    # The logarithm of each class's vote: its greatest weight, and the sum relative to that.
    top_QC = torch.full((len(logits_QK), num_classes), -torch.inf, dtype=torch.float64)
    top_QC.scatter_reduce_(1, labels_QK, logits_QK, "amax")
    sums_QC = torch.zeros_like(top_QC).scatter_add_(1, labels_QK, (logits_QK - top_QC.gather(1, labels_QK)).exp())
    votes_QC = ((top_QC + sums_QC.log()) * _VOTE_GRID).round_()
    votes_QC[top_QC == -torch.inf] = -torch.inf
    known_Q = expected_Q < num_classes
    classes_Q1 = expected_Q.clamp(max=num_classes - 1)[:, None]
    mine_Q1 = votes_QC.gather(1, classes_Q1)
    before_QC = (votes_QC > mine_Q1) | ((votes_QC == mine_Q1) & (torch.arange(num_classes) < classes_Q1))
    has_vote_Q = known_Q & (mine_Q1[:, 0] > -torch.inf)
    return torch.where(has_vote_Q, before_QC.sum(dim=1), num_classes)
