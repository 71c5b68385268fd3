"""Sources of vectors for k-means (``protocol.py``): in memory, and in a feature store on disk.

Legend: N vectors, D dimensions, n vectors of one chunk. A *position* counts the vectors of a source from 0, a *sample
index* the samples of the data set. They differ where samples are left out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar, cast

import numpy as np

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.exact_sums import Accumulator, Extent, SquareSum
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.protocol import ClusterSums, Farthest, Search
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.features.store import FeatureStore

T = TypeVar("T")
#: Positions (n,) int64 and their vectors (n, D) float32.
Chunk = tuple[np.ndarray, np.ndarray]
Piece = TypeVar("Piece", bound=tuple[np.ndarray, ...])

_CHUNK_ROWS = 2048
_CHUNK_VALUES = 1 << 22

#: Which part of a source a process reads, of how many: what it sums is then added up over the processes of the run.
Part = tuple[int, int]
WHOLE: Part = (0, 1)
#: What is done with the positions (n,) int64 and the vectors (n, D) float32 of a chunk.
Work = Callable[[np.ndarray, np.ndarray], None]


def chunk_rows(dim: int) -> int:
    """The vectors of one chunk. Set by D alone, so that nothing else can move a label."""
    return max(256, min(_CHUNK_ROWS, _CHUNK_VALUES // dim))


Source = TypeVar("Source", bound="ChunkedSource")


class ChunkedSource(ABC):
    """A source whose vectors are read, checked and prepared in chunks of fixed size."""

    def __init__(self, num_vectors: int, raw_dim: int, preprocessing: Preprocessing, part: Part) -> None:
        self.num_vectors = num_vectors
        self._part = part
        self._make_pass: Callable[[Work, float], None] | None = None
        self._squares: dict[float, float] = {}
        self.dim = preprocessing.output_dim(raw_dim)
        self._raw_dim = raw_dim
        self.preprocessing = preprocessing

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
        return self.preprocessing.apply(self._read_finite(positions))

    def _read_finite(self, positions: np.ndarray) -> np.ndarray:
        rows = self._read(positions)
        # A NaN or an infinity shows in the sum, which is quicker to find than to test every value; so may finite ones.
        if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
            raise self._non_finite()
        return rows

    def _ranges(self) -> Iterator[np.ndarray]:
        size = chunk_rows(self._raw_dim)
        for start in range(0, self.num_vectors, size):
            yield np.arange(start, min(start + size, self.num_vectors))

    def _own_ranges(self) -> Iterator[np.ndarray]:
        """The ranges of this process: neighbours, so that it reads its own part of the disk."""
        number, count = self._part
        num_ranges = -(-self.num_vectors // chunk_rows(self._raw_dim))
        for index, positions in enumerate(self._ranges()):
            if index * count // num_ranges == number:
                yield positions

    def _drawn(self, share: float) -> Iterator[np.ndarray]:
        """The positions of a share in each range of this process."""
        chosen = (positions[in_share(positions, share)] for positions in self._own_ranges())
        return (positions for positions in chosen if len(positions))

    def positions(self, share: float = 1.0) -> Iterator[np.ndarray]:
        """The positions (n,) int64 of each chunk, without reading it."""
        return (positions for (positions,) in self._joined((positions,) for positions in self._drawn(share)))

    def chunks(self, share: float = 1.0) -> Iterator[Chunk]:
        """All vectors of a share that are this process's, in order, as (positions (n,) int64, (n, D) float32)."""
        return _read_ahead(self._joined((positions, self.take(positions)) for positions in self._drawn(share)))

    def _joined(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        joiner = _Joiner[Piece](chunk_rows(self._raw_dim))
        for piece in pieces:
            yield from joiner.push(piece)
        yield from joiner.rest()

    def over_chunks(self, work: Work, share: float = 1.0) -> None:
        """Calls ``work`` with every chunk. What it raises on one process of a run is raised on all."""
        if self._make_pass is not None:
            self._make_pass(work, share)
        else:
            self.over_shares([(work, share)])

    def over_shares(self, works: Sequence[tuple[Work, float]]) -> None:
        """Calls each work with every chunk of its share, as ``over_chunks`` does, and reads vectors once for all."""
        shares = sorted({share for _, share in works}, reverse=True)
        with contextlib.nullcontext() if self._part == WHOLE else distributed.errors_shared():
            for share, chunk in _read_ahead(self._chunks_of(shares)):
                for work, seen in works:
                    if seen == share:
                        work(*chunk)

    def _chunks_of(self, shares: Sequence[float]) -> Iterator[tuple[float, Chunk]]:
        """The chunks of several shares, the largest one first, each as :meth:`chunks` has them; with their share."""
        joiners = {share: _Joiner[Chunk](chunk_rows(self._raw_dim)) for share in shares}
        for positions in self._drawn(shares[0]):
            rows = self._read_finite(positions)
            for share, joiner in joiners.items():
                # Prepared anew: the last bits of a projection depend on the rows that are projected together.
                if (chosen := in_share(positions, share)).any():
                    some = slice(None) if chosen.all() else chosen
                    full = joiner.push((positions[some], self.preprocessing.apply(rows[some])))
                    yield from ((share, chunk) for chunk in full)
        for share, joiner in joiners.items():
            yield from ((share, chunk) for chunk in joiner.rest())

    def with_passes_by(self: Source, make_pass: Callable[[Work, float], None]) -> Source:
        """The same source, whose ``over_chunks`` is ``make_pass``."""
        other = copy.copy(self)
        other._make_pass = make_pass
        return other

    def gather(self, value: T) -> list[T]:
        """One value of each process that has a part of the source, in order, on every one of them."""
        return [value] if self._part == WHOLE else distributed.gather(value)

    @functools.cached_property
    def extent(self) -> Extent:
        """How large the numbers are; where preprocessing does not say it, all are read once."""
        if self.preprocessing.gives_unit_rows:
            return Extent(largest=1.0 + 1e-6, typical=1 / math.sqrt(self.dim))
        largest, squares = np.zeros(1), np.zeros(1)

        def look(_: np.ndarray, rows: np.ndarray) -> None:
            largest[0] = max(largest[0], float(np.abs(rows).max()))
            squares[0] += np.einsum("nd,nd->", rows, rows, dtype=np.float64)

        self.over_chunks(look)
        if self._part != WHOLE:
            distributed.take_largest(largest)
            distributed.add_up(squares)
        return Extent(float(largest[0]), math.sqrt(squares[0] / max(1, self.num_vectors * self.dim)))

    def accumulate(self, search: Search, share: float = 1.0) -> ClusterSums:
        """Assigns every vector of a share to its nearest centroid. All processes of the run call it together."""
        result = Accumulator(search.num_clusters, self.dim, self.extent, self.num_vectors)
        # That of the squares is the same in every iteration.
        squares = SquareSum(self.dim, self.extent, self.num_vectors) if share not in self._squares else None

        def add(_: np.ndarray, rows: np.ndarray) -> None:
            result.add(rows, search.labels(rows))
            if squares is not None:
                squares.add(rows)

        self.over_chunks(add, share)
        for part in (result, squares):
            if part is not None and self._part != WHOLE:
                part.add_up_over_processes()
        if squares is not None:
            self._squares[share] = squares.total()
        return result.total(self._squares[share])

    def farthest(self, search: Search, share: float = 1.0) -> Farthest:
        """The farthest vector of each cluster. All processes of the run call it together."""
        distances = np.zeros(search.num_clusters, dtype=np.float32)
        farthest = np.full(search.num_clusters, -1, dtype=np.int64)

        def look(positions: np.ndarray, rows: np.ndarray) -> None:
            labels, near = (column[:, 0] for column in search.nearest(rows))
            before = distances.copy()
            np.maximum.at(distances, labels, near)
            reached = np.flatnonzero((near == distances[labels]) & (near > before[labels]))[::-1]
            farthest[labels[reached]] = positions[reached]  # the last one written stays: the first of several

        self.over_chunks(look, share)
        if self._part != WHOLE:
            own = distances.copy()
            distributed.take_largest(distances)
            # Of processes that have a vector equally far, the one with the first.
            farthest[(own < distances) | (farthest < 0)] = self.num_vectors
            distributed.take_smallest(farthest)
            farthest[farthest == self.num_vectors] = -1
        return Farthest(distances, farthest)

    def _non_finite(self) -> DataError:
        bad = [positions[~np.isfinite(self._read(positions)).all(axis=1)] for positions in self._ranges()]
        samples = self.sample_indices(np.concatenate(bad))
        return DataError(
            f"The features of {len(samples)} of {self.num_vectors} samples are NaN or infinite, the first is "
            f"sample {samples[0]}. Extract the features again with a teacher that gives finite ones; with "
            "config.CLUSTERFIT.FEATURES.DTYPE=float16, try float32."
        )


def _are_neighbours(numbers: np.ndarray) -> bool:
    return len(numbers) > 0 and int(numbers[-1] - numbers[0]) + 1 == len(numbers)


class _Joiner(Generic[Piece]):
    """Makes chunks of the small pieces that a share leaves of each range: short products are slow.

    Args:
        size: the vectors of a chunk, at least.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[Piece] = []

    def push(self, piece: Piece) -> Iterator[Piece]:
        """Adds a piece, and gives the chunk that it completes, if it does."""
        self._waiting.append(piece)
        if sum(len(waiting[0]) for waiting in self._waiting) >= self._size:
            yield from self.rest()

    def rest(self) -> Iterator[Piece]:
        """Gives what waits, if anything does."""
        waiting, self._waiting = self._waiting, []
        if len(waiting) == 1:
            yield waiting[0]
        elif waiting:
            yield cast(Piece, tuple(map(np.concatenate, zip(*waiting, strict=True))))


def _read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same, each made while the one before it is being worked on."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as reader:
        coming = reader.submit(next, iterator, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, iterator, None)
            yield item


class ArraySource(ChunkedSource):
    """Vectors in memory, or in a memory-mapped array.

    Args:
        rows: (N, D) float32.
        part: that this process reads.
    """

    def __init__(self, rows: np.ndarray, part: Part = WHOLE) -> None:
        num_vectors, dim = rows.shape
        super().__init__(num_vectors, dim, Preprocessing(), part)
        self._rows = rows

    def _read(self, positions: np.ndarray) -> np.ndarray:
        rows = self._rows[positions[0] : positions[-1] + 1] if _are_neighbours(positions) else self._rows[positions]
        return np.ascontiguousarray(rows, dtype=np.float32)

    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The positions themselves."""
        return positions


class StoreSource(ChunkedSource):
    """The readable samples of a feature store, prepared as they are read: a chunk is in memory, never all.

    Args:
        store: the features.
        preprocessing: applied to every chunk.
        indices: (n,) int64, sorted: the samples to use, of which unreadable ones are left out; all if None.
        part: that this process reads.
    """

    def __init__(
        self,
        store: FeatureStore,
        preprocessing: Preprocessing | None = None,
        indices: np.ndarray | None = None,
        part: Part = WHOLE,
    ) -> None:
        if indices is not None:
            indices = np.setdiff1d(indices, store.unreadable, assume_unique=True)
        num_vectors = store.num_samples - len(store.unreadable) if indices is None else len(indices)
        super().__init__(num_vectors, store.dim, preprocessing or Preprocessing(), part)
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
        if _are_neighbours(samples):
            return self._store.read(int(samples[0]), int(samples[-1]) + 1)
        return self._store.take(samples)
