"""How good labels are: sizes of clusters, samples between two clusters, agreement with other labels.

Everything is exact. Memory follows the number of samples and of pairs of labels that occur, never K times K.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.errors import DataError, problem

_BLOCK_ROWS = 1 << 20


@dataclass(frozen=True)
class SizeStatistics:
    """How many samples the clusters have, empty clusters among them.

    Attributes:
        num_clusters: K.
        num_empty: clusters without a sample.
        smallest: samples of the smallest cluster.
        median: of all clusters.
        largest: samples of the largest cluster.
        imbalance: the largest cluster over the mean one; 1 when all are of the same size, 0 without any sample.
        effective_clusters: the exponential of the entropy of the sizes: K when all are the same, 1 when one has all
            samples, 0 without any sample.
    """

    num_clusters: int
    num_empty: int
    smallest: int
    median: float
    largest: int
    imbalance: float
    effective_clusters: float


@dataclass(frozen=True)
class Agreement:
    """How far two labellings of the same samples agree, whatever the clusters are called.

    Attributes:
        num_compared: samples with a label in both.
        num_left_out: samples without a label (-1) in either.
        nmi: mutual information over the mean of the two entropies, 0 to 1.
        adjusted_rand: the share of pairs of samples on which both agree, adjusted so that chance gives 0 and
            identity 1.
        purity: the share of samples whose other label is the most frequent one in their cluster.
        inverse_purity: the same with the two labellings exchanged.
    """

    num_compared: int
    num_left_out: int
    nmi: float
    adjusted_rand: float
    purity: float
    inverse_purity: float


def size_statistics(sizes: np.ndarray) -> SizeStatistics:
    """What the sizes of clusters, (K,) int64, say."""
    total = int(sizes.sum())
    filled = sizes[sizes > 0] / max(1, total)
    return SizeStatistics(
        num_clusters=len(sizes),
        num_empty=int((sizes == 0).sum()),
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
        imbalance=float(sizes.max() * len(sizes) / total) if total else 0.0,
        effective_clusters=math.exp(-float(filled @ np.log(filled))) if total else 0.0,
    )


def undecided_share(labels: np.ndarray, distances: np.ndarray, margins: np.ndarray, tolerance: float) -> float:
    """The share of labelled samples for which another centroid is nearly as near as their own.

    Args:
        labels: (N,) int64, -1 for samples without a label.
        distances: (N,) float32, squared, to the own centroid.
        margins: (N,) float32, how much larger the squared distance to the next centroid is.
        tolerance: "nearly" is a margin of at most this share of the distance.

    Returns:
        0 to 1; 0 where no sample has a label.
    """
    num_labelled = num_undecided = 0
    for start in range(0, len(labels), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        labelled = labels[block] >= 0
        near = margins[block].astype(np.float64) <= tolerance * distances[block].astype(np.float64)
        num_labelled += int(labelled.sum())
        num_undecided += int((labelled & near).sum())
    return num_undecided / max(1, num_labelled)


def agreement(labels: np.ndarray, others: np.ndarray) -> Agreement:
    """Compares two labellings of the same samples, by scikit-learn.

    Args:
        labels: (N,) integers, -1 for samples without a label.
        others: the same, or true classes.

    Raises:
        DataError: they are not of the same samples, or no sample has a label in both.
    """
    for name, array in (("labels", labels), ("other labels", others)):
        _require_labels(name, array)
    if len(labels) != len(others):
        found = f"labels of {len(labels)} samples and of {len(others)}"
        raise DataError(problem("Labels to compare", found=found, allowed="two of the same samples"))
    in_both = (labels >= 0) & (others >= 0)
    num_compared = int(in_both.sum())
    if not num_compared:
        raise DataError(problem("Labels to compare", found="no sample with a label in both", allowed="one or more"))
    own, other = labels[in_both], others[in_both]
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(own, other, sparse=True)
    with warnings.catch_warnings():
        # Many labels for few samples make scikit-learn suspect measurements.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        nmi = float(normalized_mutual_info_score(own, other))
        adjusted_rand = float(adjusted_rand_score(own, other))
    return Agreement(
        num_compared=num_compared,
        num_left_out=len(labels) - num_compared,
        nmi=nmi,
        adjusted_rand=adjusted_rand,
        purity=float(counts.max(axis=1).sum() / num_compared),
        inverse_purity=float(counts.max(axis=0).sum() / num_compared),
    )


def adjusted_mutual_information(labels: np.ndarray, true: np.ndarray) -> float:
    """What labels say of the true ones: 1 where they tell them, 0 as by chance, whatever K (Vinh, Epps, Bailey, 2010).

    For thousands of samples: the correction for chance takes K times the true classes.

    Args:
        labels: (N,) int64; samples without a label, -1, are left out.
        true: (N,) int64.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    kept = labels >= 0
    return float(adjusted_mutual_info_score(true[kept], labels[kept]))


def _require_labels(name: str, array: np.ndarray) -> None:
    found = ""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        found = f"{array.shape} of {array.dtype}"
    elif len(array) and array.min() < -1:
        found = f"the label {array.min()}"
    if found:
        raise DataError(problem(name, found=found, allowed="(N,) integers, 0 or more, and -1 where there is no label"))
