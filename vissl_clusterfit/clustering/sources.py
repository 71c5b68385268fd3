"""Sources of vectors for k-means (``protocol.py``): in memory, and in a feature store on disk.

Legend: N vectors, D dimensions, n vectors of one chunk. A *position* counts the vectors of a source from 0, a *sample
index* the samples of the data set. They differ where samples are left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.protocol import ClusterSums, Search
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.features.store import FeatureStore

_CHUNK_ROWS = 8192
_CHUNK_VALUES = 1 << 24


def chunk_rows(dim: int) -> int:
    """The vectors of one chunk. Set by D alone, so that nothing else can move a label."""
    return max(256, min(_CHUNK_ROWS, _CHUNK_VALUES // dim))


class _ChunkedSource(ABC):
    """A source whose vectors are read, checked and prepared in chunks of fixed size."""

    def __init__(self, num_vectors: int, raw_dim: int, preprocessing: Preprocessing) -> None:
        self.num_vectors = num_vectors
        self.dim = preprocessing.output_dim(raw_dim)
        self._raw_dim = raw_dim
        self._preprocessing = preprocessing

    @abstractmethod
    def _read(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at ``positions`` as they were given."""

    @abstractmethod
    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples that the vectors at ``positions`` belong to, as (n,) int64."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at ``positions`` (sorted, ascending), prepared.

        Raises:
            DataError: one is NaN or infinite; the message counts them all.
        """
        rows = self._read(positions)
        # A NaN or an infinity shows in the extremes, which are quicker to find than to test every value.
        if rows.size and not (np.isfinite(rows.min()) and np.isfinite(rows.max())):
            raise self._non_finite()
        return self._preprocessing.apply(rows)

    def _ranges(self) -> Iterator[np.ndarray]:
        size = chunk_rows(self._raw_dim)
        for start in range(0, self.num_vectors, size):
            yield np.arange(start, min(start + size, self.num_vectors))

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All vectors in order, as (position of the first, (n, D) float32)."""
        for positions in self._ranges():
            yield int(positions[0]), self.take(positions)

    def accumulate(self, search: Search) -> ClusterSums:
        """Assigns every vector to its nearest centroid."""
        result = ClusterSums.zeros(search.num_clusters, self.dim)
        for start, rows in self.chunks():
            result.add(start, rows, *search(rows))
        return result

    def _non_finite(self) -> DataError:
        bad = [positions[~np.isfinite(self._read(positions)).all(axis=1)] for positions in self._ranges()]
        samples = self.sample_indices(np.concatenate(bad))
        return DataError(
            f"The features of {len(samples)} of {self.num_vectors} samples are NaN or infinite, the first is "
            f"sample {samples[0]}. Extract the features again with a teacher that gives finite ones; with "
            "config.CLUSTERFIT.FEATURES.DTYPE=float16, try float32."
        )


class ArraySource(_ChunkedSource):
    """Vectors in memory, or in a memory-mapped array.

    Args:
        rows: (N, D) float32.
    """

    def __init__(self, rows: np.ndarray) -> None:
        num_vectors, dim = rows.shape
        super().__init__(num_vectors, dim, Preprocessing())
        self._rows = rows

    def _read(self, positions: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._rows[positions], dtype=np.float32)

    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The positions themselves."""
        return positions


class StoreSource(_ChunkedSource):
    """The readable samples of a feature store, prepared as they are read: a chunk is in memory, never all.

    Args:
        store: the features.
        preprocessing: applied to every chunk.
        indices: (n,) int64, sorted: the samples to use, of which unreadable ones are left out; all if None.
    """

    def __init__(
        self,
        store: FeatureStore,
        preprocessing: Preprocessing | None = None,
        indices: np.ndarray | None = None,
    ) -> None:
        if indices is not None:
            indices = np.setdiff1d(indices, store.unreadable, assume_unique=True)
        num_vectors = store.num_samples - len(store.unreadable) if indices is None else len(indices)
        super().__init__(num_vectors, store.dim, preprocessing or Preprocessing())
        self._store = store
        self._indices = indices
        # How many readable samples come before each unreadable one: with it no list of all samples is needed.
        self._readable_before = store.unreadable - np.arange(len(store.unreadable))

    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples that the vectors at ``positions`` belong to, as (n,) int64."""
        if self._indices is not None:
            return self._indices[positions]
        return positions + np.searchsorted(self._readable_before, positions, side="right")

    def _read(self, positions: np.ndarray) -> np.ndarray:
        samples = self.sample_indices(positions)
        if len(samples) and samples[-1] - samples[0] + 1 == len(samples):
            return self._store.read(int(samples[0]), int(samples[-1]) + 1)
        return self._store.take(samples)
