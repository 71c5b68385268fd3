"""Sources of vectors for k-means (``protocol.py``): what they do, and one in memory; ``store_source.py`` is on disk.

Legend: N vectors, D dimensions, n vectors of one chunk. A *position* counts the vectors of a source from 0, a *sample
index* the samples of the data set. They differ where samples are left out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.assignment_sums import AssignmentSums, LastAssignment
from vissl_clusterfit.clustering.card_rows import CardRows, card_chunk_rows, readers_for_card, working_bytes
from vissl_clusterfit.clustering.chunks import are_neighbours, found_by, joined, read_ahead
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.protocol import ALL, ChunkTask, ClusterSums, Farthest, Fraction
from vissl_clusterfit.clustering.reproducible_sums import (
    MAX_BINS,
    ValueRange,
    squared_norms,
)
from vissl_clusterfit.clustering.sampling import in_share
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.search.protocol import Search
from vissl_clusterfit.search.threads import ordered_map

T = TypeVar("T")
#: Positions (n,) int64 and their vectors (n, D) float32.
Chunk = tuple[np.ndarray, np.ndarray]

_CHUNK_ROWS = 2048
_CHUNK_VALUES = 1 << 22

#: Which part of a source a process reads, of how many: what it sums is then added up over the processes of the run.
RankShard = tuple[int, int]
WHOLE: RankShard = (0, 1)
#: Room for so many clusters is left on a card, where nothing says how many there are.
CLUSTERS_AT_ONCE = 1 << 16


def chunk_rows(dim: int) -> int:
    """The vectors of one chunk. Set by D alone, so that nothing else can move a label."""
    return max(256, min(_CHUNK_ROWS, _CHUNK_VALUES // dim))


def joined_rows(dim: int, num_rows: int) -> int:
    """The vectors that are in memory at a time, where a search asks for so many."""
    return max(chunk_rows(dim), min(num_rows, _CHUNK_VALUES // dim))


Source = TypeVar("Source", bound="ChunkedSource")


class ChunkedSource(ABC):
    """A source whose vectors are read, checked and prepared in chunks of fixed size."""

    #: Whether what is read may be overwritten.
    _reads_copies = False

    def __init__(
        self, num_vectors: int, raw_dim: int, preprocessing: Preprocessing, part: RankShard, clusters_at_once: int
    ) -> None:
        self.num_vectors = num_vectors
        self.part = part
        self._make_pass: Callable[[ChunkTask, Fraction], None] | None = None
        # Found once for this one and what is copied of it.
        self._squares: dict[Fraction, float] = {}
        self._extent: list[ValueRange] = []
        self._last: LastAssignment | None = None
        self._on_card: dict[torch.device, CardRows] = {}
        self.dim = preprocessing.output_dim(raw_dim)
        self._raw_dim = raw_dim
        self._clusters_at_once = clusters_at_once
        self.preprocessing = preprocessing

    @abstractmethod
    def _read(self, positions: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        """The vectors at ``positions`` as they were given, in float32, or in the dtype that they are in."""

    @property
    @abstractmethod
    def _given_dtype(self) -> np.dtype:
        """The dtype that they are in."""

    @abstractmethod
    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The samples that the vectors at ``positions`` belong to, as (n,) int64."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The vectors at ``positions`` (sorted, ascending), prepared.

        Raises:
            DataError: one is NaN or infinite; the message counts them all.
        """
        rows = self._read(positions)
        # A NaN or an infinity shows in the sum, which is quicker to find than to test every value; so may finite ones.
        if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
            raise self._non_finite()
        return self.preprocessing.apply(rows, in_place=self._reads_copies)

    def _ranges(self) -> Iterator[np.ndarray]:
        size = chunk_rows(self._raw_dim)
        for start in range(0, self.num_vectors, size):
            yield np.arange(start, min(start + size, self.num_vectors))

    def _own_ranges(self) -> Iterator[np.ndarray]:
        """The ranges of this process: neighbours, so that it reads its own part of the disk."""
        number, count = self.part
        num_ranges = -(-self.num_vectors // chunk_rows(self._raw_dim))
        for index, positions in enumerate(self._ranges()):
            if index * count // num_ranges == number:
                yield positions

    def positions(self, share: Fraction = ALL) -> Iterator[np.ndarray]:
        """The positions (n,) int64 of each chunk, without reading it."""
        waiting: list[np.ndarray] = []
        for positions in self._own_ranges():
            # Small pieces of neighbouring ranges make one chunk: short products are slow.
            waiting.append(positions[in_share(positions, share)])
            if sum(map(len, waiting)) >= chunk_rows(self._raw_dim):
                yield np.concatenate(waiting)
                waiting = []
        if any(map(len, waiting)):
            yield np.concatenate(waiting)

    def chunks(self, share: Fraction = ALL) -> Iterator[Chunk]:
        """All vectors of a share that are this process's, in order, as (positions (n,) int64, (n, D) float32)."""
        return read_ahead((positions, self.take(positions)) for positions in self.positions(share))

    def over_chunks(self, work: ChunkTask, share: Fraction = ALL) -> None:
        """Does ``work`` with every chunk. What it raises on one process of a run is raised on all."""
        if self._make_pass is not None:
            self._make_pass(work, share)
        else:
            self.over_shares([(work, share)])

    def over_shares(self, works: Sequence[tuple[ChunkTask, Fraction]]) -> None:
        """Does each work with every chunk of its share, and reads vectors once for all that want the same share."""
        with contextlib.nullcontext() if self.part == WHOLE else distributed.errors_shared():
            for share, card in dict.fromkeys((share, work.card) for work, share in works):
                same = [work for work, wanted in works if (wanted, work.card) == (share, card)]
                self._pass_over(share, card, same)

    def _pass_over(self, share: Fraction, card: torch.device | None, works: Sequence[ChunkTask]) -> None:
        num_threads, num_readers = min(work.num_threads for work in works), 2
        looks = [work.look for work in works if work.look is not None]
        # A search that takes one call at a time has a second thread read for it meanwhile.
        gate = threading.BoundedSemaphore(num_threads)

        def prepare(chunks: list[np.ndarray]) -> Callable[[], None]:
            positions = np.concatenate(chunks) if len(chunks) > 1 else chunks[0]
            coming = rows_of(chunks, looks)
            with gate:
                rows = coming()
                found = [found_by(work, rows) for work in works]

            def keep() -> None:
                for work, its in zip(works, found, strict=True):
                    work.consume(positions, rows, its)

            return keep

        most, asked_for, rows_of = 0, max(work.num_rows for work in works), self._in_memory
        if card is not None:
            most, num_readers = card_chunk_rows(self._raw_dim), readers_for_card(torch.get_num_threads())
            rows_of = functools.partial(self._rows_on(card).coming, read=self._travelling, refusal=self._non_finite)
        elif asked_for:
            # As many for each thread, to within half a chunk: else some would wait for the last.
            of_a_thread = math.ceil(self.num_vectors * (share[1] - share[0]) / self.part[1] / num_threads)
            turns = max(1, math.ceil(of_a_thread / joined_rows(self._raw_dim, asked_for)))
            most = of_a_thread // turns + chunk_rows(self._raw_dim) // 2
        ordered_map(joined(self.positions(share), most), prepare, max(num_readers, num_threads))

    def _in_memory(
        self, chunks: Sequence[np.ndarray], looks: Sequence[Callable[[np.ndarray], None]]
    ) -> Callable[[], Any]:
        # Chunk by chunk: what preprocessing gives may depend on which vectors come together.
        taken = [self.take(positions) for positions in chunks]
        rows = np.concatenate(taken) if len(taken) > 1 else taken[0]
        del taken
        for look in looks:
            look(rows)
        return lambda: rows

    def _rows_on(self, card: torch.device) -> CardRows:
        if card not in self._on_card:
            own = list(self._own_ranges())
            first, shape = int(own[0][0]) if own else 0, (sum(map(len, own)), self.dim)
            dtype = torch.float16 if self._travels_as_given else torch.float32
            left_free = working_bytes(self._clusters_at_once, self.dim, MAX_BINS, torch.get_num_threads())
            self._on_card[card] = CardRows(card, shape, first, dtype, left_free)
        return self._on_card[card]

    @property
    def _travels_as_given(self) -> bool:
        return self._given_dtype == np.float16 and self.preprocessing.equals(Preprocessing())

    def _travelling(self, positions: np.ndarray) -> np.ndarray:
        return self._read(positions, np.float16) if self._travels_as_given else self.take(positions)

    def with_passes_by(self: Source, make_pass: Callable[[ChunkTask, Fraction], None]) -> Source:
        """The same source, whose ``over_chunks`` is ``make_pass``."""
        other = copy.copy(self)
        other._make_pass = make_pass
        return other

    def gather(self, value: T) -> list[T]:
        """One value of each process that has a part of the source, in order, on every one of them."""
        return [value] if self.part == WHOLE else distributed.gather(value)

    @property
    def extent(self) -> ValueRange:
        """How large the numbers are; where preprocessing does not say it, all are read once."""
        if not self._extent:
            self._extent.append(self._find_extent())
        return self._extent[0]

    def _find_extent(self) -> ValueRange:
        if self.preprocessing.gives_unit_rows:
            return ValueRange(largest=1.0 + 1e-6, typical=1 / math.sqrt(self.dim))
        largest, squares = np.zeros(1), np.zeros(1)

        def look(rows: np.ndarray) -> tuple[float, float]:
            return float(np.abs(rows).max()), float(squared_norms(rows).sum())

        def keep(_: np.ndarray, __: np.ndarray, found: tuple[float, float]) -> None:
            largest[0] = max(largest[0], found[0])
            squares[0] += found[1]

        self.over_chunks(ChunkTask(keep, look, torch.get_num_threads()))
        if self.part != WHOLE:
            distributed.take_largest(largest)
            distributed.add_up(squares)
        return ValueRange(float(largest[0]), math.sqrt(squares[0] / max(1, self.num_vectors * self.dim)))

    def remembering(self: Source, shares: Collection[Fraction]) -> Source:
        """The same source, which adds up only those vectors of ``shares`` that change their cluster."""
        other = copy.copy(self)
        other._last = LastAssignment(self.num_vectors, shares)
        return other

    def accumulate(self, search: Search, share: Fraction = ALL) -> ClusterSums:
        """Assigns every vector of a share to its nearest centroid. All processes of the run call it together."""
        squares, last = self._squares, self._last
        sums = AssignmentSums(search, share, self.num_vectors, self.dim, self.extent, squares, last)
        self.over_chunks(sums.task, share)
        return sums.total(over_processes=self.part != WHOLE)

    def farthest(self, search: Search, share: Fraction = ALL) -> Farthest:
        """The farthest vector of each cluster. All processes of the run call it together."""
        distances = np.zeros(search.num_clusters, dtype=np.float32)
        farthest = np.full(search.num_clusters, -1, dtype=np.int64)

        def look(positions: np.ndarray, _: np.ndarray, found: tuple[np.ndarray, np.ndarray]) -> None:
            labels, near = (column[:, 0] for column in found)
            before = distances.copy()
            np.maximum.at(distances, labels, near)
            reached = np.flatnonzero((near == distances[labels]) & (near > before[labels]))[::-1]
            farthest[labels[reached]] = positions[reached]  # the last one written stays: the first of several

        self.over_chunks(ChunkTask(look, search.nearest, search.num_threads, card=search.card), share)
        if self.part != WHOLE:
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


class ArraySource(ChunkedSource):
    """Vectors in memory, or in a memory-mapped array.

    Args:
        rows: (N, D) of floating-point numbers, which are read as float32.
        part: that this process reads.
        preprocessing: applied to every chunk.
        clusters_at_once: K of all clusterings that share passes over it, for which room is left on a card.
    """

    def __init__(
        self,
        rows: np.ndarray,
        part: RankShard = WHOLE,
        preprocessing: Preprocessing | None = None,
        clusters_at_once: int = CLUSTERS_AT_ONCE,
    ) -> None:
        num_vectors, dim = rows.shape
        super().__init__(num_vectors, dim, preprocessing or Preprocessing(), part, clusters_at_once)
        self._rows = rows

    @property
    def _given_dtype(self) -> np.dtype:
        return self._rows.dtype

    def _read(self, positions: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        rows = self._rows[positions[0] : positions[-1] + 1] if are_neighbours(positions) else self._rows[positions]
        return np.ascontiguousarray(rows, dtype=dtype)

    def sample_indices(self, positions: np.ndarray) -> np.ndarray:
        """The positions themselves."""
        return positions
