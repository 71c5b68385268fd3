"""The samples of the training split on which hyper-parameters are chosen: never those of the test split."""

from __future__ import annotations

import math

import numpy as np

from vissl_clusterfit.errors import DataError, problem


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the training samples: each class gives its share where there is one class per sample.

    Args:
        labels: ``(num_samples,)`` classes, stratified over; or ``(num_samples, num_classes)`` targets, drawn at random.
        share: To hold out, above 0 and at most 0.5.
        seed: Draws them.

    Returns:
        Indices to fit on, and indices to choose on (scikit-learn's StratifiedShuffleSplit or ShuffleSplit).

    Raises:
        DataError: too few samples, of one class or altogether.
    """
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    num_validation = math.ceil(share * len(labels))
    if labels.ndim == 2:
        if len(labels) < 2:
            raise DataError(problem("train_labels", found=f"{len(labels)} samples", allowed="at least two"))
        splitter = ShuffleSplit(n_splits=1, test_size=num_validation, random_state=seed)
        return next(splitter.split(labels))
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(problem("train_labels", found=f"only class {classes[0]}", allowed="at least two classes"))
    if counts.min() < 2:
        rare = classes[counts < 2]
        names = ", ".join(map(str, rare[:10])) + (", …" if len(rare) > 10 else "")
        raise DataError(
            problem(
                "train_labels",
                found=f"one sample each of {len(rare)} of {len(classes)} classes ({names})",
                allowed="at least two samples per class",
                remedy="One is needed to fit and one to choose hyper-parameters: add samples or leave these out.",
            )
        )
    if num_validation < len(classes):
        raise DataError(
            problem(
                "validation_share",
                found=f"{share:g}, {num_validation} of {len(labels)} training samples",
                allowed=f"a share with at least one sample for each of the {len(classes)} classes",
                remedy="Raise it or add training samples.",
            )
        )
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=num_validation, random_state=seed)
    return next(splitter.split(np.zeros(len(labels)), labels))
