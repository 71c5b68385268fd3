"""Some ten thousand centroids and the operand of their matrix product: which of them may be the nearest, and which is.

Legend: n rows of a block, D dimensions, K centroids, P pairs of a row and a candidate.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable

import torch

from vissl_clusterfit.search import differences, error_bounds
from vissl_clusterfit.search.error_bounds import RoundedOperand
from vissl_clusterfit.search.neighbourhoods import FEWEST_CENTROIDS, FEWEST_ROWS_WITH_POINTS, Neighbourhoods

#: Centroids of one product; more are searched part by part.
MOST_CENTROIDS = 1 << 16
# Candidates are looked for among the maxima of so many scores.
_GROUP = 16
_WIDTH_MULTIPLE = 8
_HEIGHT_MULTIPLE = 256
# Values of one block of scores: a few MiB on a processor, so that they stay in its cache.
_BLOCK_SCORES = {"cpu": 1 << 22, "cuda": 1 << 28}
#: A thread takes so many rows at least.
FEWEST_ROWS = 64
#: Of a block: its scores, their maxima, and what is compared with them.
SCORE_COPIES = 1.25
_BLOCK_ROWS = {"cpu": (FEWEST_ROWS, 2048), "cuda": (256, 1 << 16)}
_PAIR_VALUES = {"cpu": 1 << 17, "cuda": 1 << 26}
# More candidates than this per uncertain row are narrowed down by a product in float32 first.
_MANY_CANDIDATES = 16


def tile_size(num_clusters: int) -> int:
    """The centroids that are searched at a time."""
    return min(num_clusters, MOST_CENTROIDS)


def block_rows(num_clusters: int, device: str) -> int:
    """The vectors of one block, at most: so many that all their scores stay near the units that compute them."""
    least, most = _BLOCK_ROWS[device]
    rows = max(least, min(most, _BLOCK_SCORES[device] // tile_size(num_clusters)))
    # Whole multiples, or blocks would be filled up with rows of nothing.
    return rows if rows < _HEIGHT_MULTIPLE else rows // _HEIGHT_MULTIPLE * _HEIGHT_MULTIPLE


def card_bytes(num_clusters: int, dim: int, product_bytes: int) -> int:
    """What a search takes on a card, but for the rows that are given.

    Args:
        num_clusters: K.
        dim: D.
        product_bytes: of a number in the product.
    """
    centroids = num_clusters * dim * (4 + product_bytes)
    making = 8 * tile_size(num_clusters) * dim  # less the shift, and their squares
    rows = block_rows(num_clusters, "cuda")
    scores = int(SCORE_COPIES * rows * tile_size(num_clusters) * product_bytes)
    # The other operand of the product, and pairs of rows and centroids as they are in memory and in float64.
    return centroids + max(making, scores + rows * dim * (8 + product_bytes) + 16 * _PAIR_VALUES["cuda"])


def _up_to(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Tile:
    """Up to some ten thousand centroids (K, D) float32 and their operand of the product.

    Args:
        centroids: (K, D) float32.
        dtype: the product type.
    """

    def __init__(self, centroids: torch.Tensor, dtype: torch.dtype) -> None:
        self.num_clusters, self._dim = centroids.shape
        self._centroids = centroids
        self.dtype = dtype
        self._shift = centroids.mean(dim=0)
        if not torch.isfinite(self._shift).all():  # the sum overflows
            self._shift = centroids[0].clone()
        squares = self._squared_lengths(centroids)
        # A power of two brings very long and very short vectors to a length that float32 can square.
        exponent = math.frexp(math.sqrt(float(squares.max())))[1]
        self._scale = 1.0 if abs(exponent) <= 10 else math.ldexp(1.0, max(-126, min(126, -exponent)))
        # Columns for half the squared norm, and rows of scores that belong to no vector, up to whole groups.
        self._width = _up_to(self._dim + 3, _WIDTH_MULTIPLE)
        self._operand = torch.zeros(
            _up_to(self.num_clusters, _GROUP), self._width, dtype=dtype, device=centroids.device
        )
        own = self._operand[: self.num_clusters]
        self._prepared = error_bounds.shifted(centroids, self._shift, self._scale, own[:, : self._dim])
        own[:, self._dim : self._dim + 3] = error_bounds.split_float64(squares * (-(self._scale**2) / 2), dtype)
        self._operand[self.num_clusters :, self._dim] = torch.finfo(dtype).min
        self._ones = torch.zeros(self._width - self._dim, dtype=dtype, device=centroids.device)
        self._ones[:3] = 1

        self._making = threading.Lock()
        self._near: Neighbourhoods | None = None  # made when rows come that are worth it

    def _squared_lengths(self, centroids: torch.Tensor) -> torch.Tensor:
        """Of the centroids less the shift, (K,) float64."""
        size = max(1, _PAIR_VALUES[centroids.device.type] // self._dim)
        parts = [part.double().sub_(self._shift).square_().sum(dim=1) for part in centroids.split(size)]
        return torch.cat(parts)

    @functools.cached_property
    def _finer(self) -> Tile:
        return self if self.dtype == torch.float32 else Tile(self._centroids, torch.float32)

    def labels(self, rows: torch.Tensor) -> torch.Tensor:
        """The nearest centroids of (n, D), as (n,) int64."""
        return self._nearest_candidates(rows, *self._candidates(rows, 1))

    def _nearest_candidates(self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        """Of all pairs (P,) that may be nearest, the nearest ones, as (n,) int64."""
        labels, uncertain, row, candidate = _certain_labels(row, candidate, len(rows))
        if self._are_many(row, uncertain, 1):
            labels[uncertain] = self._narrowed(rows[uncertain], 1)[0][:, 0]
            return labels
        return self._decided_labels(rows, labels, row, candidate)

    def _decided_labels(
        self, rows: torch.Tensor, labels: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor
    ) -> torch.Tensor:
        """The labels, with those of rows that have several candidates (P,) decided by their distances."""
        row, candidate = self._settled_in_float32(rows, row, candidate)
        labels[row] = candidate
        uncertain = _are_several(row, len(rows))
        row, candidate = _where(uncertain[row], row, candidate)
        if len(row):
            labels[uncertain] = self._decide(rows, row, candidate, uncertain, 1)[0][:, 0]
        return labels

    def _settled_in_float32(
        self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pairs (P,) that may still be the nearest by their distances in float32, from differences."""
        squared = self._distances(rows, row, candidate, torch.float32)
        least = torch.full((len(rows),), torch.inf, device=rows.device).scatter_reduce_(0, row, squared, "amin")
        return _where(~(squared > error_bounds.certainly_farther(least, self._dim)[row]), row, candidate)

    def nearest(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``count`` nearest centroids of (n, D), (n, count) int64, and squared distances (n, count) float64."""
        row, candidate = self._candidates(rows, count)
        everyone = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if self._are_many(row, everyone, count):
            return self._narrowed(rows, count)
        return self._decide(rows, row, candidate, everyone, count)

    @property
    def leaves_out(self) -> bool:
        """Whether rows are first held against reference points (``neighbourhoods.py``), or may be."""
        on_processor = self._centroids.device.type == "cpu"  # a GPU would wait for many small products
        many = self.num_clusters >= FEWEST_CENTROIDS and self.dtype != torch.float32
        return on_processor and many and (self._near is None or self._near.pays)

    def _neighbourhoods(self, num_rows: int, count: int) -> Neighbourhoods | None:
        """What leaves out most products of so many rows, of each of which ``count`` centroids are wanted."""
        if not self.leaves_out or num_rows < FEWEST_ROWS_WITH_POINTS:
            return None
        with self._making:
            if self._near is None:
                exact = (self._centroids - self._shift).mul_(self._scale)
                self._near = Neighbourhoods(exact, self._operand[: self.num_clusters], self._prepared)
        return self._near if count <= self._near.num_near else None

    def _candidates(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs (P,) of a row and a centroid that may be among its ``count`` nearest; every row has as many."""
        size = block_rows(self.num_clusters, rows.device.type)
        near = self._neighbourhoods(len(rows), count)
        if near is None:
            if len(rows) <= size:
                return self._among_all(*self._operand_of_height(rows), count)
            return self._in_blocks(rows, torch.arange(len(rows), device=rows.device), count, size)
        operand, prepared = self._operand_of(rows, len(rows))
        found = near.candidates(operand, prepared, count)
        row, candidate = self._in_blocks(rows, (~found.certain).nonzero()[:, 0], count, size)
        return torch.cat([found.row, row]), torch.cat([found.candidate, candidate])

    def _in_blocks(
        self, rows: torch.Tensor, of: torch.Tensor, count: int, size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = [
            (part, *self._among_all(*self._operand_of_height(rows[part]), count))
            for part in of.split(size)
            if len(part)
        ]
        pairs = [(part[row], candidate) for part, row, candidate in found] or [(of, of)]
        row, candidate = (torch.cat(side) for side in zip(*pairs, strict=True))
        return row, candidate

    def _operand_of(self, rows: torch.Tensor, height: int) -> tuple[torch.Tensor, RoundedOperand]:
        """Rows as the other operand (height, W) of the product, filled up with zeros."""
        operand = torch.empty(height, self._width, dtype=self.dtype, device=rows.device)
        prepared = error_bounds.shifted(rows, self._shift, self._scale, operand[: len(rows), : self._dim])
        operand[: len(rows), self._dim :] = self._ones
        operand[len(rows) :] = 0
        return operand, prepared

    def _operand_of_height(self, rows: torch.Tensor) -> tuple[torch.Tensor, RoundedOperand]:
        """The operand of few heights: oneDNN compiles and keeps a product for each."""
        least = min(_HEIGHT_MULTIPLE, block_rows(self.num_clusters, rows.device.type))
        return self._operand_of(rows, _up_to(len(rows), least))

    def _among_all(
        self, operand: torch.Tensor, prepared: RoundedOperand, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The pairs of rows and centroids that may be among the ``count`` nearest; rows of an operand (H, W)."""
        # Scores of a group are far apart, those of a row's neighbours side by side: so maxima are quick to find.
        scores = (self._operand @ operand.T).view(len(self._operand) // _GROUP, _GROUP, len(operand))
        scores = scores[:, :, : len(prepared.norms)]
        maxima = scores.amax(dim=1)
        enough = len(maxima) >= count
        best = maxima.topk(count, dim=0).values[-1] if enough and count > 1 else maxima.amax(dim=0)
        limit = self._limit(best, error_bounds.score_error(prepared, self._prepared, self._dim), prepared)
        if not enough:
            limit.fill_(-torch.inf)
        group, row = (~(maxima.float() < limit)).nonzero().unbind(1)
        pair, member = (~(scores[group, :, row].float() < limit[row, None])).nonzero().unbind(1)
        candidate = group[pair] * _GROUP + member
        return _where(candidate < self.num_clusters, row[pair], candidate)

    def _limit(self, best: torch.Tensor, error: torch.Tensor, prepared: RoundedOperand) -> torch.Tensor:
        """Scores of rows below this (n,) float32 are certainly less than the best (n,); none is of very long rows."""
        limit = error_bounds.score_threshold(best, error, self.dtype)
        return torch.where(prepared.norms < error_bounds.LONGEST_ROW, limit, torch.full_like(limit, -torch.inf))

    def _decide(
        self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor, wanted: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest candidates of the rows that are wanted (n,) bool, by their distances in float64."""
        distances = self._distances(rows, row, candidate, torch.float64)
        row, candidate, distances = _in_order(row, candidate, distances)
        again = differences.depend_on_the_order(row, distances, self._dim).nonzero()[:, 0]
        if len(again):
            distances[again] = self.distances(rows, row[again], candidate[again])
            row, candidate, distances = _in_order(row, candidate, distances)
        first = torch.searchsorted(row, wanted.nonzero()[:, 0])
        chosen = first[:, None] + torch.arange(count, device=row.device)
        return candidate[chosen], distances[chosen]

    def _are_many(self, row: torch.Tensor, wanted: torch.Tensor, count: int) -> bool:
        """Whether a product in float32 is the quicker way to fewer pairs."""
        return len(row) > _MANY_CANDIDATES * count * int(wanted.sum()) and self._finer is not self

    def _narrowed(self, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        found = [self._finer.nearest(part, count) for part in rows.split(max(1, (1 << 20) // self.num_clusters))]
        return torch.cat([labels for labels, _ in found]), torch.cat([distances for _, distances in found])

    def distances(self, rows: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
        """Squared distances of pairs (P,), float64, the same to the bit on any device."""
        return self._distances(rows, row, candidate, torch.float64, differences.same_sum)

    def _distances(
        self,
        rows: torch.Tensor,
        row: torch.Tensor,
        candidate: torch.Tensor,
        dtype: torch.dtype,
        add: Callable[[torch.Tensor], torch.Tensor] = differences.plain_sum,
    ) -> torch.Tensor:
        """Squared distances of pairs (P,), computed in float32 or float64."""
        size = max(1, _PAIR_VALUES[rows.device.type] // self._dim)
        parts = [
            add(rows[of].to(dtype).sub_(self._centroids[to]).square_())
            for of, to in zip(row.split(size), candidate.split(size), strict=True)
        ]
        return torch.cat(parts)


def _in_order(
    row: torch.Tensor, candidate: torch.Tensor, distances: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs (P,) by row, then distance, then index."""
    order = candidate.argsort(stable=True)
    order = order[distances[order].argsort(stable=True)]
    order = order[row[order].argsort(stable=True)]
    return row[order], candidate[order], distances[order]


def _certain_labels(
    row: torch.Tensor, candidate: torch.Tensor, num_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of pairs (P,) labels (n,), right where a row has one candidate; where it has more (n,); and their pairs."""
    labels = torch.empty(num_rows, dtype=torch.int64, device=row.device)
    labels[row] = candidate
    uncertain = _are_several(row, num_rows)
    return labels, uncertain, *_where(uncertain[row], row, candidate)


def _are_several(row: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Which rows (n,) have more than one of the pairs (P,)."""
    return torch.zeros(num_rows, dtype=torch.int64, device=row.device).scatter_add_(0, row, torch.ones_like(row)) > 1


def _where(mask: torch.Tensor, row: torch.Tensor, candidate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs (P,) of a mask, for which a card is waited for once."""
    kept = mask.nonzero()[:, 0]
    return row[kept], candidate[kept]
