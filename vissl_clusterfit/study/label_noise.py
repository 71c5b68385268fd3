"""Labels of which a share is wrong: the noise of the paper's control experiment."""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.errors import DataError, problem


def wrong_labels(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A copy of labels with another class, drawn evenly from the others, at ``round(share * N)`` random places.

    For one seed the places of a smaller share are among those of a larger one, and the wrong class at a place is the
    same.

    Args:
        labels: (N,) int64, from 0.
        share: from 0 to 1.
        seed: draws places and classes.

    Raises:
        DataError: there is only one class.
    """
    num_classes = int(labels.max()) + 1
    if num_classes < 2:
        raise DataError(problem("Labels to be made wrong", found="only one class", allowed="two or more"))
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(labels))[: round(share * len(labels))]
    shifts = rng.integers(1, num_classes, size=len(labels))
    made = labels.copy()
    made[places] = (made[places] + shifts[places]) % num_classes
    return made
