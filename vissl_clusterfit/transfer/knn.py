"""Nearest-neighbour classification on frozen features.

Shapes in names: Q queries of one chunk, K neighbours.
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


@dataclass(frozen=True)
class KnnSettings:
    """What defines the score. Chunk sizes and device are not here: they do not change it."""

    #: How many gallery samples vote on each query. Wu et al. take 200.
    num_neighbors: int = setting(20, at_least=1)
    #: T of the weighted vote, 0.07 as in Wu et al.; no effect on the majority vote.
    temperature: float = setting(0.07, above=0)
    #: How much of a vote a neighbour has.
    vote: str = setting("weighted", choices=("weighted", "majority"))

    def protocol(self, gallery: str = "the training split") -> str:
        """The text by which someone else can compute the same number; ``gallery``: who the neighbours are."""
        if self.vote == "weighted":
            vote = f"weighted vote, exp(cosine / {self.temperature:g}) (Wu et al., CVPR 2018, section 3.4)"
        else:
            vote = "majority vote"
        return (
            "exact kNN on frozen features scaled to unit L2 norm; "
            f"the {self.num_neighbors} samples of {gallery} with the greatest cosine similarity, "
            f"of equal ones the first; {vote}, of equal classes the smallest number"
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

    With the neighbours N_k of a query by cosine similarity s_i, and their classes c_i, the prediction is ::

        weighted:  argmax_c  sum over i in N_k of  exp(s_i / T) * [c_i = c]
        majority:  argmax_c  sum over i in N_k of  [c_i = c]

    The weighted vote is that of Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", CVPR 2018, section 3.4. Of classes with equal votes the smallest number wins, as
    in scikit-learn's ``KNeighborsClassifier``; for equally similar neighbours see :func:`nearest_neighbors`.

    Args:
        queries: ``(num_queries, dim)``, any float dtype; may be memory-mapped.
        gallery: ``(num_gallery, dim)``, likewise.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0; as many classes as wanted, gaps allowed.
        settings: What defines the figure.
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
        device=device,
        query_chunk=query_chunk,
        gallery_chunk=gallery_chunk,
    )
    return torch.cat([vote(cosines.cpu(), labels[indices.cpu()], settings) for cosines, indices in chunks]).numpy()


def knn_accuracy(
    queries: Rows,
    query_labels: np.ndarray | Tensor,
    gallery: Rows,
    gallery_labels: np.ndarray | Tensor,
    settings: KnnSettings,
    *,
    device: str | torch.device = "cpu",
) -> float:
    """Top-1 accuracy of :func:`knn_predict`, between 0 and 1; a class that the gallery lacks counts as wrong.

    Args:
        queries: ``(num_queries, dim)``.
        query_labels: ``(num_queries,)`` whole numbers from 0.
        gallery: ``(num_gallery, dim)``.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0.
        settings: What defines the figure.
        device: Where to compute.

    Raises:
        ConfigError: as :func:`knn_predict`.
        DataError: as :func:`knn_predict`.
    """
    expected = validate_labels(query_labels, len(queries), "query_labels")
    predicted = knn_predict(queries, gallery, gallery_labels, settings, device=device)
    return float(np.mean(predicted == expected))


def vote(cosines_QK: Tensor, labels_QK: Tensor, settings: KnnSettings) -> Tensor:
    """The label that wins the vote of each query's neighbours, ``(Q,)`` int64; see :func:`knn_predict`.

    The cost does not depend on the number of classes.

    Args:
        cosines_QK: float64, in descending order.
        labels_QK: int64, whole numbers from 0.
        settings: Who has how much of a vote.
    """
    if settings.vote == "weighted":
        # Relative to the nearest neighbour: a common factor changes no winner, and exp cannot overflow.
        weights_QK = torch.exp((cosines_QK - cosines_QK[:, :1]) / settings.temperature)
        votes_QK = weights_QK.mul_(_WEIGHT_GRID).round_().long()
    else:
        votes_QK = torch.ones_like(labels_QK)
    labels_QK, order_QK = labels_QK.sort(dim=1)
    running = pad(votes_QK.gather(1, order_QK).cumsum(dim=1), (1, 0))
    # Equal labels now lie side by side: their votes are what the running sum gains from first to last.
    end_QK = torch.searchsorted(labels_QK, labels_QK, right=True)
    begin_QK = torch.searchsorted(labels_QK, labels_QK)
    totals_QK = running.gather(1, end_QK) - running.gather(1, begin_QK)
    # argmax gives the first of equal totals, and labels ascend.
    return labels_QK.gather(1, totals_QK.argmax(dim=1, keepdim=True)).squeeze(1)
