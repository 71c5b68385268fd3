"""A feature store on disk as a source of vectors for k-means (``protocol.py``, ``sources.py``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from vissl_clusterfit.clustering.chunks import are_neighbours
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.sources import CLUSTERS_AT_ONCE, WHOLE, ChunkedSource, RankShard
from vissl_clusterfit.features.store import FeatureStore


class StoreSource(ChunkedSource):
    """The readable samples of a feature store, prepared as they are read: a chunk is in memory, never all.

    Args:
        store: the features.
        preprocessing: applied to every chunk.
        indices: (n,) int64, sorted: the samples to use, of which unreadable ones are left out; all if None.
        part: that this process reads.
        clusters_at_once: K of all clusterings that share passes over it, for which room is left on a card.
    """

    _reads_copies = True

    def __init__(
        self,
        store: FeatureStore,
        preprocessing: Preprocessing | None = None,
        indices: np.ndarray | None = None,
        part: RankShard = WHOLE,
        clusters_at_once: int = CLUSTERS_AT_ONCE,
    ) -> None:
        if indices is not None:
            indices = np.setdiff1d(indices, store.unreadable, assume_unique=True)
        num_vectors = store.num_samples - len(store.unreadable) if indices is None else len(indices)
        super().__init__(num_vectors, store.dim, preprocessing or Preprocessing(), part, clusters_at_once)
        self._store = store
        self._indices = indices
        # How many readable samples come before each unreadable one: with it no list of all samples is needed.
        self._readable_before = store.unreadable - np.arange(len(store.unreadable))

    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples that the vectors at ``positions`` belong to, as (n,) int64."""
        if self._indices is not None:
            return self._indices[positions]
        return positions + np.searchsorted(self._readable_before, positions, side="right")

    @property
    def _given_dtype(self) -> np.dtype:
        return np.dtype(self._store.dtype)

    def _read(self, positions: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        samples = self.sample_indices(positions)
        if are_neighbours(samples):
            return self._store.read(int(samples[0]), int(samples[-1]) + 1, dtype)
        return self._store.take(samples, dtype)
