"""What a search of the nearest centroids promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import torch

#: Vectors as an array, or as a tensor on the card of a search; what is found of them comes as the same.
Rows = TypeVar("Rows", np.ndarray, torch.Tensor)


class Search(Protocol):
    """Finds the nearest of K centroids."""

    @property
    def num_clusters(self) -> int:
        """K."""

    @property
    def num_threads(self) -> int:
        """How many calls, on threads of their own, are best made at the same time."""

    @property
    def num_rows(self) -> int:
        """How many rows are best given at a time, where they are in memory anyway; 0 for any."""

    @property
    def card(self) -> torch.device | None:
        """Where both methods take tensors, too, and give what they find as such; None where they take arrays alone."""

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest centroids of (n, D) float32, as (n,) int64."""

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest centroids of (n, D) float32, nearest first.

        Returns:
            Centroids (n, count) int64 and squared L2 distances to them (n, count) float32.
        """


#: Makes a search of (K, D) float32 centroids.
SearchFactory = Callable[[np.ndarray], Search]
