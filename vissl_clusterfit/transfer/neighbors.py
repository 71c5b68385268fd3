"""Exact nearest neighbours by cosine similarity or dot product, in bounded memory, on CPU or GPU.

A matrix product in few bits gives every score at once. A bound on its rounding (``search/error_bounds.py``) says which
gallery samples may be neighbours; their similarities are computed in float64. Where they are many, as among ties, the
whole block is.

Shapes in names: Q queries of one chunk, G gallery samples of one chunk, K neighbours, C candidates of one query, P
pairs of a query and a candidate, H pairs of a query and a group of samples, D feature dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.search.error_bounds import RoundedOperand, score_error, score_threshold, shifted, threshold_for
from vissl_clusterfit.search.threads import keep_freed_memory, parallel_map
from vissl_clusterfit.search.torch_search import fast_product_type, full_precision
from vissl_clusterfit.transfer.checks import check_features
from vissl_clusterfit.transfer.rows import (
    LEAST_NORM,
    PART_VALUES,
    Rows,
    parts_of,
    read_rows,
    require_device,
    row_norms,
    unit_rows,
)

#: Cosines are compared on this grid (about 1e-9). Sums of float64 differ by 1e-15 from one chunk size or device to
#: another; on the grid equal samples have equal cosines, and the tie rule decides.
COSINE_GRID = 2**30
# A key within one block is the cosine on its grid times this range less the place in the block: 52 bits.
_LOCAL_RANGE = 2**22
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_NO_KEY = torch.iinfo(torch.int64).min
# Candidates are looked for among the maxima of so many scores.
_GROUP = 16
# More groups than so many for each neighbour that is wanted are narrowed down first.
_MANY_GROUPS = 2
# A shift is the mean of about so many rows.
_ROWS_OF_A_MEAN = 512
# What similarities lose as their operands become float32 (three roundings and one), and on the grid.
_ROUNDED = 8 * 2.0**-24 + 2 / COSINE_GRID
# Norms from which products of float32 may overflow.
_LARGE_NORM = 1e15
# So few that a block of their scores stays in the cache.
_QUERIES_OF_A_THREAD = 256


def nearest_neighbors(
    queries: Rows,
    gallery: Rows,
    num_neighbors: int,
    *,
    similarity: str = "cosine",
    device: str | torch.device = "cpu",
    query_chunk: int = 4096,
    gallery_chunk: int = 8192,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Finds the gallery samples with the greatest similarity to each query, comparing it with all.

    Similarities are computed in float64 and rounded to about 1e-9 (dot products: of the query's norm times the
    greatest norm in the gallery); of equally similar samples the one with the smaller index comes first. So the
    result depends neither on chunk sizes nor on the device. A feature of norm zero has cosine 0 with everything.

    Args:
        queries: ``(num_queries, dim)``, any float dtype; may be memory-mapped.
        gallery: ``(num_gallery, dim)``, likewise.
        num_neighbors: At most ``num_gallery``.
        similarity: "cosine" or "dot".
        device: Where the similarities are computed. Chunks are moved there one by one.
        query_chunk: Queries per block.
        gallery_chunk: Gallery samples per block. Memory is proportional to ``(query_chunk + gallery_chunk) * dim``; and
            for each thread some hundred queries times ``gallery_chunk``, on a GPU ``query_chunk * gallery_chunk``.

    Yields:
        For one chunk of queries after the other: similarities ``(Q, num_neighbors)`` float64 in descending order,
        and gallery indices of the same shape, int64; both on ``device``.

    Raises:
        ConfigError: more neighbours than gallery samples, or a GPU is asked for where there is none.
        DataError: features that are empty, not 2-dimensional, of different dimensions, or not finite.
    """
    check_features(gallery, "gallery", queries, "queries")
    if not 1 <= num_neighbors <= len(gallery):
        allowed = f"1 to {len(gallery)}, the number of gallery samples"
        raise ConfigError(problem("num_neighbors", found=num_neighbors, allowed=allowed))
    require_device(device)
    assert len(gallery) <= _INDEX_MASK, "indices of the gallery must fit into 32 bits"
    assert similarity in ("cosine", "dot"), similarity
    gallery_chunk = min(gallery_chunk, _LOCAL_RANGE, len(gallery))
    keep_freed_memory()
    norms = row_norms(gallery, gallery_chunk, device, "gallery")
    # Dot products are brought between -1 and 1, as cosines are, and back.
    largest = float(norms.max()) or 1.0
    factors = 1 / (norms.clamp(min=LEAST_NORM) if similarity == "cosine" else torch.full_like(norms, largest))
    # On a processor each thread takes some queries: PyTorch's own would meet after each of many short operations.
    on_card = torch.device(device).type == "cuda"
    dtype = fast_product_type(torch.device(device).type)
    progress = Progress("Nearest neighbours", len(queries), "queries")
    for query_start in range(0, len(queries), query_chunk):
        queries_QD = unit_rows(queries, query_start, query_start + query_chunk, device, "queries")
        parts = queries_QD.split(query_chunk if on_card else _QUERIES_OF_A_THREAD)
        searches = [_Search(part, num_neighbors, dtype) for part in parts]
        for start in range(0, len(gallery), gallery_chunk):
            rows_GD = read_rows(gallery, start, start + gallery_chunk, device)
            block = _Block(rows_GD, factors[start : start + gallery_chunk], start, dtype)
            look = functools.partial(_Search.take_block, block=block)
            with full_precision():
                _ = [look(search) for search in searches] if on_card else parallel_map(look, searches)
        similarities_QK, indices_QK = map(torch.cat, zip(*(search.found() for search in searches), strict=True))
        if similarity == "dot":
            norms_Q = read_rows(queries, query_start, query_start + query_chunk, device).double().norm(dim=1)
            similarities_QK *= largest * norms_Q[:, None]
        progress.add(len(queries_QD))
        yield similarities_QK, indices_QK
    progress.close()


class _Block:
    """Some gallery samples: rows (G, D) as they came, the factors (G,) float64 that scale them, the first's index.

    Attributes:
        operand_GD: The scaled rows less a shift, in the product type; zeros up to whole groups.
        shift_D: About their mean, float32.
        prepared: How long the rows of the operand are, and what they lost.
    """

    def __init__(self, rows_GD: Tensor, factors_G: Tensor, start: int, dtype: torch.dtype) -> None:
        self.rows_GD, self.factors_G, self.start = rows_GD, factors_G, start
        num_rows, dim = rows_GD.shape
        self.shift_D = self._scaled(slice(None, None, -(-num_rows // _ROWS_OF_A_MEAN))).mean(dim=0)
        self.operand_GD = torch.empty(-(-num_rows // _GROUP) * _GROUP, dim, dtype=dtype, device=rows_GD.device)
        self.operand_GD[num_rows:] = 0
        prepared = parallel_map(self._prepare, parts_of(rows_GD))
        self.prepared = RoundedOperand(
            *(torch.cat([getattr(of, name) for of in prepared]) for name in ("norms", "residuals"))
        )

    def __len__(self) -> int:
        return len(self.rows_GD)

    def _prepare(self, part: slice) -> RoundedOperand:
        return shifted(self._scaled(part), self.shift_D, 1.0, self.operand_GD[part])

    def _scaled(self, part: slice) -> Tensor:
        """Scaled rows as float32, each value within three roundings."""
        rows_GD, factors_G = self.rows_GD[part], self.factors_G[part]
        if rows_GD.dtype == torch.float64 or float(factors_G.min()) < 1 / _LARGE_NORM:
            return (rows_GD.double() * factors_G[:, None]).float()
        return rows_GD.float() * factors_G.float()[:, None]

    def in_float64(self) -> Tensor:
        """The scaled rows, (G, D)."""
        return self.rows_GD.double() * self.factors_G[:, None]

    def similarities(self, queries_QD: Tensor, query_P: Tensor, place_P: Tensor) -> Tensor:
        """The similarities of pairs, (P,) float64."""
        size = max(1, PART_VALUES[queries_QD.device.type] // queries_QD.shape[1])
        parts = [
            self.rows_GD.index_select(0, place).double().mul_(queries_QD.index_select(0, query)).sum(dim=1)
            for query, place in zip(query_P.split(size), place_P.split(size), strict=True)
        ]
        return torch.cat(parts) * self.factors_G[place_P]


class _Search:
    """The neighbours of one chunk of queries (Q, D) float64 of unit norm, among the blocks that it has seen.

    They are kept as keys: the upper bits hold the similarity's place on the grid, the lower ones the index, counted
    from the end. So no two keys of a query are equal: of equal similarities the smaller index wins.
    """

    def __init__(self, queries_QD: Tensor, num_neighbors: int, dtype: torch.dtype) -> None:
        self._queries_QD, self._num_neighbors = queries_QD, num_neighbors
        self._operand_QD = torch.empty(queries_QD.shape, dtype=dtype, device=queries_QD.device)
        zero_D = torch.zeros(queries_QD.shape[1], device=queries_QD.device)
        self._prepared = shifted(queries_QD.float(), zero_D, 1.0, self._operand_QD)
        self._best_QK = torch.full((len(queries_QD), 0), _NO_KEY, dtype=torch.int64, device=queries_QD.device)

    def found(self) -> tuple[Tensor, Tensor]:
        """Similarities (Q, K) float64 and indices (Q, K) int64, best first."""
        grid_QK = (self._best_QK >> _INDEX_BITS).double()
        return grid_QK / COSINE_GRID, _INDEX_MASK - (self._best_QK & _INDEX_MASK)

    def take_block(self, block: _Block) -> None:
        """Looks for neighbours among some more gallery samples."""
        query_P, place_P = self._candidates(block)
        counts_Q = torch.bincount(query_P, minlength=len(self._queries_QD))
        crowded_Q = counts_Q > self._num_neighbors + len(block) // _GROUP
        if crowded_Q.any():
            apart = ~crowded_Q[query_P]
            query_P, place_P = query_P[apart], place_P[apart]
            counts_Q.masked_fill_(crowded_Q, 0)
        grid_P = (block.similarities(self._queries_QD, query_P, place_P) * COSINE_GRID).round_().long()
        # The pairs of a query are adjacent, and become a row.
        column_P = torch.arange(len(query_P), device=query_P.device) - (counts_Q.cumsum(0) - counts_Q)[query_P]
        keys_QC = torch.full((len(counts_Q), int(counts_Q.max())), _NO_KEY, dtype=torch.int64, device=query_P.device)
        keys_QC[query_P, column_P] = (grid_P << _INDEX_BITS) + (_INDEX_MASK - block.start - place_P)
        if crowded_Q.any():
            of_crowded = self._best_keys(crowded_Q, block)
            keys_QC = pad(keys_QC, (0, max(0, of_crowded.shape[1] - keys_QC.shape[1])), value=_NO_KEY)
            keys_QC[crowded_Q, : of_crowded.shape[1]] = of_crowded
        self._best_QK = self._best_of(self._best_QK, keys_QC)

    def _candidates(self, block: _Block) -> tuple[Tensor, Tensor]:
        """All pairs (P,) of a query and a place in the block that may be neighbours, query by query."""
        scores_GQ = block.operand_GD @ self._operand_QD.T
        dtype, shift_D = scores_GQ.dtype, block.shift_D.double()
        error_Q = score_error(self._prepared, block.prepared, len(shift_D)) + _ROUNDED
        # Scores are of rows less the shift.
        least_Q = (self._least_Q() - self._queries_QD @ shift_D).float()
        limit_Q = threshold_for(least_Q, error_Q, dtype)
        # Scores of a group are far apart in memory, those of a place's queries adjacent: so maxima are quick to find.
        groups = scores_GQ.view(-1, _GROUP, scores_GQ.shape[1])
        maxima_QM = groups.amax(dim=1).T.float()
        if self._best_QK.shape[1] < self._num_neighbors <= len(block) // (2 * _GROUP):
            # So many groups have one that is as good; the last group may not be whole.
            last_Q = maxima_QM[:, : len(block) // _GROUP].topk(self._num_neighbors, dim=1).values[:, -1]
            limit_Q = torch.maximum(limit_Q, score_threshold(last_Q, error_Q, dtype))
        query_H, group_H = (maxima_QM >= limit_Q[:, None]).nonzero().unbind(1)
        if len(query_H) > _MANY_GROUPS * self._num_neighbors * len(limit_Q) and self._num_neighbors <= len(block):
            last_Q = scores_GQ[: len(block)].T.float().topk(self._num_neighbors, dim=1).values[:, -1]
            limit_Q = torch.maximum(limit_Q, score_threshold(last_Q, error_Q, dtype))
        hit_P, member_P = (groups[group_H, :, query_H].float() >= limit_Q[query_H, None]).nonzero().unbind(1)
        place_P = group_H[hit_P] * _GROUP + member_P
        real = place_P < len(block)
        return query_H[hit_P][real], place_P[real]

    def _least_Q(self) -> Tensor:
        """The least similarity of each query's neighbours; minus infinity while they are too few."""
        if self._best_QK.shape[1] < self._num_neighbors:
            return torch.full((len(self._best_QK),), -torch.inf, dtype=torch.float64, device=self._best_QK.device)
        return (self._best_QK[:, -1] >> _INDEX_BITS).double() / COSINE_GRID

    def _best_of(self, *keys: Tensor) -> Tensor:
        together = torch.cat(keys, dim=1)
        return together.topk(min(self._num_neighbors, together.shape[1]), dim=1).values

    def _best_keys(self, of_queries: Tensor, block: _Block) -> Tensor:
        """The best of a block, one key each, from a product in float64.

        Within the block, keys are made in float64, which holds whole numbers exactly up to 2**53.
        """
        cosines_QG = self._queries_QD[of_queries] @ block.in_float64().T
        places_G = torch.arange(len(block), dtype=torch.float64, device=cosines_QG.device)
        cosines_QG.mul_(COSINE_GRID).round_().mul_(_LOCAL_RANGE).sub_(places_G)
        found_QK = cosines_QG.topk(min(self._num_neighbors, len(block)), dim=1).values
        grid_QK = (found_QK / _LOCAL_RANGE).ceil()
        indices_QK = (grid_QK * _LOCAL_RANGE - found_QK).long() + block.start
        return (grid_QK.long() << _INDEX_BITS) + (_INDEX_MASK - indices_QK)
