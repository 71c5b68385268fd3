"""Subsets with equally many samples of each label, where some samples have none."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from vissl_clusterfit.errors import DataError, problem


def of_labelled_samples(balanced_sub_sampling: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """VISSL's ``balanced_sub_sampling``, which takes a missing label (-1) for one more label, without those samples.

    The function it gives is VISSL's where every sample has a label; it raises DataError where a label has too few.
    """

    @functools.wraps(balanced_sub_sampling)
    def sample(labels: np.ndarray, num_samples: int, skip_samples: int = 0, seed: int = 0) -> np.ndarray:
        if np.ndim(labels) != 1:
            return balanced_sub_sampling(labels, num_samples, skip_samples, seed)
        labelled = np.flatnonzero(labels >= 0)
        _require_enough(labels[labelled], num_samples, skip_samples)
        return labelled[balanced_sub_sampling(labels[labelled], num_samples, skip_samples, seed)]

    return sample


def _require_enough(labels: np.ndarray, num_samples: int, skip_samples: int) -> None:
    values, counts = np.unique(labels, return_counts=True)

    def shares(number: int) -> np.ndarray:
        return number // len(values) + (np.arange(len(values)) < number % len(values))

    lacking = np.flatnonzero(shares(num_samples) + shares(skip_samples) > counts) if len(values) else []
    if len(lacking) or num_samples < len(values):
        few = f", of which label {values[lacking[0]]} has {counts[lacking[0]]} samples" if len(lacking) else ""
        raise DataError(
            problem(
                "config.DATA: DATA_LIMIT with DATA_LIMIT_SAMPLING.IS_BALANCED",
                found=f"{num_samples}, after {skip_samples} that are skipped, for {len(values)} labels{few}",
                allowed="at least one sample of each label, and no more than there are of the rarest",
                remedy="Change DATA_LIMIT or SKIP_NUM_SAMPLES, or set IS_BALANCED to false.",
            )
        )
