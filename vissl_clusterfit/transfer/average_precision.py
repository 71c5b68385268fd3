"""Average precision as VISSL and the PASCAL VOC challenge since 2010 define it: all points of the curve, not eleven."""

from __future__ import annotations

import numpy as np


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
