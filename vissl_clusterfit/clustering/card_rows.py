"""The vectors of a source on a card: copied while others are worked on, and kept there for all passes where all fit.

A chunk is read into pinned memory, from which a card copies on its own, on a stream beside the one that computes. As
many are under way as threads read. Where preprocessing changes nothing, float16 features travel and stay as they are,
and are widened when they are worked on, which is exact; others are prepared on the processor and travel in float32: the
bits of a norm depend on the order of its additions.

Legend: N vectors of this process, D dimensions, n vectors of one chunk, K clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vissl_clusterfit.clustering.chunks import are_neighbours
from vissl_clusterfit.progress import DETAIL
from vissl_clusterfit.search.tile import card_bytes

logger = logging.getLogger(__name__)

# Numbers of a chunk: 64 MiB in float32.
_CHUNK_VALUES = 1 << 24
#: So many threads read at most: a few copy into pinned memory as fast as a card copies out of it.
MOST_READERS = 8
# Of the chunk that is added up: float64 copies of its vectors (``reproducible_sums.py``).
_CHUNK_COPIES = 6


def card_chunk_rows(dim: int) -> int:
    """n, at most, for vectors of D dimensions."""
    return max(256, _CHUNK_VALUES // dim)


def readers_for_card(num_threads: int) -> int:
    """How many threads read for a card, of so many: two at least, so that one chunk travels while one is worked on."""
    return max(2, min(MOST_READERS, num_threads))


def working_bytes(num_clusters: int, dim: int, num_bins: int, num_threads: int, product_bytes: int = 2) -> int:
    """What a clustering takes on a card, but for vectors that stay there: the search, sums, and chunks under way.

    Args:
        num_clusters: K.
        dim: D.
        num_bins: sums that are kept of each number.
        num_threads: of the process.
        product_bytes: of a number in the search's matrix product.
    """
    sums = num_clusters * (8 * num_bins * dim + 8)
    chunks = 4 * _CHUNK_VALUES * (readers_for_card(num_threads) + _CHUNK_COPIES)
    return card_bytes(num_clusters, dim, product_bytes) + sums + chunks


class CardRows:
    """The vectors of a source on one card.

    Args:
        card: where they go.
        shape: (N, D).
        first: the position of the first one.
        dtype: in which they travel, float16 or float32.
        left_free: bytes of the card that are not for vectors that stay.
    """

    def __init__(
        self, card: torch.device, shape: tuple[int, int], first: int, dtype: torch.dtype, left_free: int
    ) -> None:
        self._card, self._first, self._dim, self._dtype = card, first, shape[1], dtype
        self._copies = torch.cuda.Stream(card)
        self._kept: torch.Tensor | None = None
        self._is_kept = np.zeros(shape[0], dtype=bool)
        torch.cuda.empty_cache()  # what PyTorch keeps of freed memory does not count as free
        needed, free = shape[0] * shape[1] * dtype.itemsize, torch.cuda.mem_get_info(card)[0]
        stays = needed + left_free <= free
        logger.info(
            "The features take %.3g GB of the GPU's memory, of which %.3g GB are free and %.3g GB are left to the "
            "clustering: they %s.",
            needed / 1e9,
            free / 1e9,
            left_free / 1e9,
            "stay there for all passes" if stays else "are copied to it in each pass",
            extra=DETAIL,
        )
        if stays:
            self._kept = torch.empty(shape, dtype=dtype, device=card)

    def coming(
        self,
        chunks: Sequence[np.ndarray],
        looks: Sequence[Callable[[np.ndarray], None]],
        read: Callable[[np.ndarray], np.ndarray],
        refusal: Callable[[], Exception],
    ) -> Callable[[], torch.Tensor]:
        """Begins to bring vectors to the card, unless they are there, and gives what has a computation wait for them.

        That, in which the processor waits for nothing, is called for one chunk at a time, and gives (n, D) float32.

        Args:
            chunks: of positions (m,) int64, ascending, n in all, each of which is read by itself.
            looks: called with the vectors of each, (m, D) float32, in memory.
            read: gives those at positions (m,), as they travel.
            refusal: what is raised where float16 ones are NaN or infinite, which is seen on the card.
        """
        own = np.concatenate(chunks) - self._first
        if not looks and self._is_kept[own].all():
            return lambda: self._at(own).float()
        pinned = torch.empty(len(own), self._dim, dtype=self._dtype, pin_memory=True)
        for part, room in zip(chunks, pinned.split([*map(len, chunks)]), strict=True):
            rows = read(part)
            for look in looks:
                look(rows.astype(np.float32, copy=False))
            room.numpy()[:] = rows
        with torch.cuda.stream(self._copies):
            there = pinned.to(self._card, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._copies)

        def wait() -> torch.Tensor:
            computing = torch.cuda.current_stream(self._card)
            computing.wait_event(arrived)
            there.record_stream(computing)  # or its memory would be given to the next chunk while this one is read
            if self._dtype != torch.float32 and not torch.isfinite(there).all():
                raise refusal()
            self._keep(own, there)
            return there.float()

        return wait

    def _at(self, own: np.ndarray) -> torch.Tensor:
        assert self._kept is not None, "nothing is marked as kept before there is room"
        if are_neighbours(own):
            return self._kept[own[0] : own[-1] + 1]
        return self._kept.index_select(0, torch.from_numpy(own).to(self._card))

    def _keep(self, own: np.ndarray, there: torch.Tensor) -> None:
        if self._kept is None:
            return
        if are_neighbours(own):
            self._kept[own[0] : own[-1] + 1].copy_(there)
        else:
            self._kept.index_copy_(0, torch.from_numpy(own).to(self._card), there)
        self._is_kept[own] = True
