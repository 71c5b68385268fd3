"""Accuracy on clips, and on the videos that they are of."""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.transfer.checks import validate_labels


def clip_and_video_accuracy(
    scores: np.ndarray, labels: np.ndarray, videos: np.ndarray, topk: tuple[int, ...] = (1,)
) -> dict[str, float]:
    """How often the class of a clip, and that of a video, is among the k with the highest scores.

    The scores of a video are the means over its clips. Of equal scores the first class is the higher one.

    Args:
        scores: ``(num_clips, num_classes)`` probabilities.
        labels: ``(num_clips,)`` whole numbers, or ``(num_clips, most)`` padded with -1: any of them is right. A class
            without a column is never found.
        videos: ``(num_clips,)`` which video each clip is of.
        topk: each k; those above the number of classes are left out.

    Returns:
        ``clip top-<k> accuracy`` and ``video top-<k> accuracy``, between 0 and 1.

    Raises:
        DataError: there is no clip, labels cannot be used, or clips of one video differ in theirs.
    """
    # One column at least; the rest of a row may be -1.
    labels = labels[:, None] if labels.ndim == 1 else labels
    validate_labels(labels.max(axis=1), len(scores), "labels")
    _, first, video_of_clip, counts = np.unique(videos, return_index=True, return_inverse=True, return_counts=True)
    differing = np.flatnonzero((labels != labels[first][video_of_clip]).any(axis=1))
    if len(differing):
        found = f"clips of video {videos[differing[0]]} with several"
        raise DataError(problem("labels", found=found, allowed="the same for all clips of a video"))
    means = np.zeros((len(counts), scores.shape[1]))
    np.add.at(means, video_of_clip, scores)
    means /= counts[:, None]
    accuracies = {}
    for k in (k for k in topk if k <= scores.shape[1]):
        accuracies[f"clip top-{k} accuracy"] = _accuracy(scores, labels, k)
        accuracies[f"video top-{k} accuracy"] = _accuracy(means, labels[first], k)
    return accuracies


def _accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    highest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((highest[:, :, None] == labels[:, None, :]).any(axis=(1, 2)).mean())


def average_precision(relevant: np.ndarray, scores: np.ndarray) -> float:
    """The area under the interpolated precision-recall curve of one class.

    With the samples in descending order of their scores, R_i and P_i recall and precision of the first i of them ::

        AP = sum over i of  (R_i - R_(i-1)) * max over j >= i of P_j

    (Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015, section 2.4.1; the
    function ``get_precision_recall`` of VISSL computes the same.) Of equal scores the later sample comes first.

    Args:
        relevant: ``(num_samples,)`` bool; at least one is true.
        scores: ``(num_samples,)``.
    """
    hits = np.asarray(relevant, dtype=bool)[np.argsort(scores, kind="stable")[::-1]]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hits].sum() / found[-1])
