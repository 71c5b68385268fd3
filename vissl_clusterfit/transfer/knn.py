"""Nearest-neighbour classification on frozen features.

Shapes in names: Q queries of one chunk, K neighbours, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.transfer.checks import validate_labels
from vissl_clusterfit.transfer.neighbors import nearest_neighbors
from vissl_clusterfit.transfer.rows import Rows

# Votes are summed as whole multiples of 2**-40. Sums of integers do not depend on order, so that votes which
# should be equal are equal, and the tie rule decides.
_WEIGHT_GRID = 2**40
# Logarithms of votes are compared on this grid: sums of the same weights in another order differ by 1e-16, and tie.
_VOTE_GRID = 2**30


@dataclass(frozen=True)
class KnnSettings:
    """What defines the score. Chunk sizes and device are not here: they do not change it."""

    #: How many gallery samples vote on each query. Wu et al. take 200.
    num_neighbors: int = setting(20, at_least=1)
    #: T of the weighted vote, 0.07 as in Wu et al.; no effect on the majority vote.
    temperature: float = setting(0.07, above=0)
    #: How much of a vote a neighbour has.
    vote: str = setting("weighted", choices=("weighted", "majority"))
    #: What makes a neighbour near: the cosine, or the dot product of the features as they are.
    similarity: str = setting("cosine", choices=("cosine", "dot"))
    #: The true class is among the first so many: one score for each. A taxonomy's levels are scored by the first class.
    topk: tuple[int, ...] = setting((1,), at_least=1)

    def protocol(self, gallery: str = "the training split") -> str:
        """The text by which someone else can compute the same number; ``gallery``: of the samples that vote."""
        cosine = self.similarity == "cosine"
        if self.vote == "weighted":
            exponent = f"{'cosine' if cosine else 'dot product'} / {self.temperature:g}"
            vote = f"weighted vote, exp({exponent}) (Wu et al., CVPR 2018, section 3.4)"
        else:
            vote = "majority vote"
        return (
            f"exact kNN on frozen features {'scaled to unit L2 norm' if cosine else 'as they are'}; "
            f"the {self.num_neighbors} samples of {gallery} with the greatest "
            f"{'cosine similarity' if cosine else 'dot product'}, "
            f"of equal ones the first; {vote}, of equal classes the smallest number"
            + ("" if self.topk == (1,) else ", and none without a vote")
        )


def knn_predict(
    queries: Rows,
    gallery: Rows,
    gallery_labels: np.ndarray | Tensor,
    settings: KnnSettings,
    *,
    device: str | torch.device = "cpu",
    query_chunk: int = 4096,
    gallery_chunk: int = 8192,
) -> np.ndarray:
    """The class that the nearest gallery samples of each query vote for.

    With the neighbours N_k of a query by similarity s_i, and their classes c_i, the prediction is ::

        weighted:  argmax_c  sum over i in N_k of  exp(s_i / T) * [c_i = c]
        majority:  argmax_c  sum over i in N_k of  [c_i = c]

    The weighted vote is that of Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", CVPR 2018, section 3.4. Of classes with equal votes the smallest number wins, as
    in scikit-learn's ``KNeighborsClassifier``; for equally similar neighbours see :func:`nearest_neighbors`.

    Args:
        queries: ``(num_queries, dim)``, any float dtype; may be memory-mapped.
        gallery: ``(num_gallery, dim)``, likewise.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0; as many classes as wanted, gaps allowed.
        settings: What defines the score.
        device: Where to compute; see :func:`nearest_neighbors`, also for the chunks.
        query_chunk: Queries per block.
        gallery_chunk: Gallery samples per block.

    Returns:
        Predicted classes ``(num_queries,)``, int64.

    Raises:
        ConfigError: ``num_neighbors`` is larger than the gallery, or a GPU is asked for where there is none.
        DataError: features or labels that cannot be used.
    """
    labels = torch.from_numpy(validate_labels(gallery_labels, len(gallery), "gallery_labels"))
    chunks = nearest_neighbors(
        queries,
        gallery,
        settings.num_neighbors,
        similarity=settings.similarity,
        device=device,
        query_chunk=query_chunk,
        gallery_chunk=gallery_chunk,
    )
    return torch.cat([vote(found.cpu(), labels[indices.cpu()], settings) for found, indices in chunks]).numpy()


def knn_hits(
    queries: Rows,
    query_labels: np.ndarray | Tensor,
    gallery: Rows,
    gallery_labels: np.ndarray | Tensor,
    settings: KnnSettings,
    *,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """How many queries have their class among the first so many, for each of ``settings.topk``: int64.

    A class that the gallery lacks counts as wrong.

    Args:
        queries: ``(num_queries, dim)``.
        query_labels: ``(num_queries,)`` whole numbers from 0.
        gallery: ``(num_gallery, dim)``.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0.
        settings: What defines the score.
        device: Where to compute.

    Raises:
        ConfigError: as :func:`knn_predict`.
        DataError: as :func:`knn_predict`.
    """
    expected = validate_labels(query_labels, len(queries), "query_labels")
    if settings.topk == (1,):
        predicted = knn_predict(queries, gallery, gallery_labels, settings, device=device)
        return np.array([(predicted == expected).sum()], dtype=np.int64)
    ranks = true_class_ranks(queries, expected, gallery, gallery_labels, settings, device=device)
    return np.array([(ranks < k).sum() for k in settings.topk], dtype=np.int64)


def true_class_ranks(
    queries: Rows,
    query_labels: np.ndarray | Tensor,
    gallery: Rows,
    gallery_labels: np.ndarray | Tensor,
    settings: KnnSettings,
    *,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """How many classes are before the true one, for each query: 0 where the prediction is right.

    Classes are in descending order of the votes of :func:`knn_predict`, of equal ones the smaller number first. A class
    without any vote has no place, where VISSL (``tools/nearest_neighbor_test.py``) ranks all of them by their number:
    with one neighbour, four of its first five are guesses. The sums are taken as logarithms: with dot products of
    features that are not scaled, exp(s / T) overflows float32, where VISSL's scores become NaN.

    Args:
        queries: ``(num_queries, dim)``.
        query_labels: ``(num_queries,)`` whole numbers from 0; one that the gallery lacks has no vote.
        gallery: ``(num_gallery, dim)``.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0; memory is proportional to the largest.
        settings: What defines the score.
        device: Where the similarities are computed.

    Returns:
        ``(num_queries,)`` int64, each below the number of classes, or equal to it for a class that has no vote.

    Raises:
        ConfigError: as :func:`knn_predict`.
        DataError: as :func:`knn_predict`.
    """
    labels = torch.from_numpy(validate_labels(gallery_labels, len(gallery), "gallery_labels"))
    expected = torch.from_numpy(validate_labels(query_labels, len(queries), "query_labels"))
    num_classes = int(labels.max()) + 1
    ranks, start = [], 0
    for similarities, indices in nearest_neighbors(
        queries, gallery, settings.num_neighbors, similarity=settings.similarity, device=device
    ):
        logits = similarities.cpu() / settings.temperature
        if settings.vote == "majority":
            logits = torch.zeros_like(logits)
        ranks.append(_ranks(logits, labels[indices.cpu()], expected[start : start + len(indices)], num_classes))
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


def vote(similarities_QK: Tensor, labels_QK: Tensor, settings: KnnSettings) -> Tensor:
    """The label that wins the vote of each query's neighbours, ``(Q,)`` int64; see :func:`knn_predict`.

    The cost does not depend on the number of classes.

    Args:
        similarities_QK: float64, in descending order.
        labels_QK: int64, whole numbers from 0.
        settings: Who has how much of a vote.
    """
    if settings.vote == "weighted":
        # Relative to the nearest neighbour: a common factor changes no winner, and exp cannot overflow.
        weights_QK = torch.exp((similarities_QK - similarities_QK[:, :1]) / settings.temperature)
        votes_QK = weights_QK.mul_(_WEIGHT_GRID).round_().long()
    else:
        votes_QK = torch.ones_like(labels_QK)
    labels_QK, order_QK = labels_QK.sort(dim=1)
    running = pad(votes_QK.gather(1, order_QK).cumsum(dim=1), (1, 0))
    # Equal labels are now adjacent: their votes are what the running sum gains from first to last.
    end_QK = torch.searchsorted(labels_QK, labels_QK, right=True)
    begin_QK = torch.searchsorted(labels_QK, labels_QK)
    totals_QK = running.gather(1, end_QK) - running.gather(1, begin_QK)
    # argmax gives the first of equal totals, and labels ascend.
    return labels_QK.gather(1, totals_QK.argmax(dim=1, keepdim=True)).squeeze(1)
