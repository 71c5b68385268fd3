"""Exact nearest neighbours by cosine similarity or dot product, in bounded memory, on CPU or GPU.

A product in float32 finds candidates, a bound on its rounding says whether one may be missing, and the similarities
of the candidates are computed in float64. Where one may be missing, the whole block is computed in float64.

Shapes in names: Q queries of one chunk, G gallery samples of one chunk, K neighbours, C candidates of one block, P
pairs of a query and a candidate, D feature dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vissl_clusterfit.clustering.threads import in_parallel
from vissl_clusterfit.clustering.torch_search import full_precision
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.transfer.checks import check_features

#: Cosines are compared on this grid (about 1e-9). Sums of float64 differ by 1e-15 from one chunk size or device to
#: another; on the grid equal samples have equal cosines, and the tie rule decides.
COSINE_GRID = 2**30
# A key within one block is the cosine on its grid times this range less the place in the block: 52 bits.
_LOCAL_RANGE = 2**22
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_NOBODY = torch.iinfo(torch.int64).min
# Candidates of a block beyond the neighbours that are wanted: so that the last of them is well below the neighbours.
_SPARE_CANDIDATES = 16
# The unit roundoff of float32, and norms from which its products may overflow.
_U = 2.0**-24
_LARGE_NORM = 1e15
_LEAST_NORM = 1e-12
# So few that a block of their scores stays in the cache.
_QUERIES_OF_A_THREAD = 256
# Values of the pairs that are computed at a time: on a processor they stay in its cache.
_PAIR_VALUES = {"cpu": 1 << 17, "cuda": 1 << 26}


class Rows(Protocol):
    """Features ``(num_samples, dim)``: an array, a tensor, or what reads a slice of rows as an array when asked."""

    @property
    def shape(self) -> Sequence[int]:
        """Samples and dimensions."""

    @property
    def ndim(self) -> int:
        """Two."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Any: ...


def nearest_neighbors(
    queries: Rows,
    gallery: Rows,
    num_neighbors: int,
    *,
    similarity: str = "cosine",
    device: str | torch.device = "cpu",
    query_chunk: int = 4096,
    gallery_chunk: int = 4096,
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
        gallery_chunk: Gallery samples per block. Memory is proportional to
            ``query_chunk * (gallery_chunk + dim) + gallery_chunk * dim``.

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
    norms = _norms(gallery, gallery_chunk, device)
    # Dot products are brought between -1 and 1, as cosines are, and back.
    largest = float(norms.max()) or 1.0
    factors = 1 / (norms.clamp(min=_LEAST_NORM) if similarity == "cosine" else torch.full_like(norms, largest))
    # On a processor each thread takes some queries: PyTorch's own would meet after each of many short operations.
    on_card = torch.device(device).type == "cuda"
    for query_start in range(0, len(queries), query_chunk):
        queries_QD = unit_rows(queries, query_start, query_start + query_chunk, device, "queries")
        parts = queries_QD.split(query_chunk if on_card else _QUERIES_OF_A_THREAD)
        searches = [_Search(part, num_neighbors) for part in parts]
        for start in range(0, len(gallery), gallery_chunk):
            rows_GD = _rows(gallery, start, start + gallery_chunk, device)
            block = _Block(rows_GD, factors[start : start + gallery_chunk], start)
            look = functools.partial(_Search.take_block, block=block)
            with full_precision():
                _ = [look(search) for search in searches] if on_card else in_parallel(look, searches)
        similarities_QK, indices_QK = map(torch.cat, zip(*(search.found() for search in searches), strict=True))
        if similarity == "dot":
            norms_Q = _rows(queries, query_start, query_start + query_chunk, device).double().norm(dim=1)
            similarities_QK *= largest * norms_Q[:, None]
        yield similarities_QK, indices_QK


class _Block:
    """Some gallery samples: rows (G, D) as they came, the factors (G,) float64 that scale them, the first's index."""

    def __init__(self, rows_GD: Tensor, factors_G: Tensor, start: int) -> None:
        self.rows_GD, self.factors_G, self.start = rows_GD, factors_G, start
        #: The scaled rows, each value within three roundings of float32.
        self.in_float32 = self._in_float32()

    def __len__(self) -> int:
        return len(self.rows_GD)

    def _in_float32(self) -> Tensor:
        if self.rows_GD.dtype == torch.float64 or float(self.factors_G.min()) < 1 / _LARGE_NORM:
            return self.in_float64().float()
        return self.rows_GD.float() * self.factors_G.float()[:, None]

    def in_float64(self) -> Tensor:
        """The scaled rows, (G, D)."""
        return self.rows_GD.double() * self.factors_G[:, None]

    def similarities(self, queries_QD: Tensor, query_P: Tensor, place_P: Tensor) -> Tensor:
        """The similarities of pairs, (P,) float64."""
        size = max(1, _PAIR_VALUES[queries_QD.device.type] // queries_QD.shape[1])
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

    def __init__(self, queries_QD: Tensor, num_neighbors: int) -> None:
        self._queries_QD, self._num_neighbors = queries_QD, num_neighbors
        self._in_float32 = queries_QD.float()
        # Operands within three roundings and one, D products and their sum in any order, and what is left of the grid.
        self._error = 1.01 * (queries_QD.shape[1] + 6) * _U + 2 / COSINE_GRID
        self._best_QK = torch.full((len(queries_QD), 0), _NOBODY, dtype=torch.int64, device=queries_QD.device)

    def found(self) -> tuple[Tensor, Tensor]:
        """Similarities (Q, K) float64 and indices (Q, K) int64, best first."""
        grid_QK = (self._best_QK >> _INDEX_BITS).double()
        return grid_QK / COSINE_GRID, _INDEX_MASK - (self._best_QK & _INDEX_MASK)

    def take_block(self, block: _Block) -> None:
        """Looks for neighbours among some more gallery samples."""
        scores_QG = self._in_float32 @ block.in_float32.T
        count = min(self._num_neighbors + _SPARE_CANDIDATES, len(block))
        scores_QC, places_QC = scores_QG.topk(count, dim=1)
        # A neighbour is as good as the last of those that are known, and of the best of this block.
        least_Q = torch.maximum(self._least_Q(), scores_QC[:, min(self._num_neighbors, count) - 1] - self._error)
        if count < self._num_neighbors:
            least_Q = self._least_Q()
        query_P, column_P = (scores_QC >= (least_Q - self._error)[:, None]).nonzero().unbind(1)
        place_P = places_QC[query_P, column_P]
        grid_P = (block.similarities(self._queries_QD, query_P, place_P) * COSINE_GRID).round_().long()
        keys_QC = torch.full_like(places_QC, _NOBODY)
        keys_QC[query_P, column_P] = (grid_P << _INDEX_BITS) + (_INDEX_MASK - block.start - place_P)
        before_QK = self._best_QK
        self._best_QK = self._best_of(before_QK, keys_QC)
        if count < len(block):
            # Whoever is no candidate is at most as good as the last of them.
            doubtful = scores_QC[:, -1].double() + self._error >= self._least_Q()
            if doubtful.any():
                keys_QC = self._best_keys(doubtful, block)
                self._best_QK[doubtful] = self._best_of(before_QK[doubtful], keys_QC)

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


def unit_rows(features: Rows, start: int, stop: int, device: str | torch.device, name: str) -> Tensor:
    """Some rows as float64 of unit norm, on ``device``; a row of norm zero stays zero.

    Raises:
        DataError: a row is not finite; ``name`` is what the message calls the features.
    """
    rows = _rows(features, start, stop, device).double()
    _require_finite(rows.isfinite().all(dim=1), start, name)
    return normalize(rows, dim=1)


def require_device(device: str | torch.device) -> None:
    """Refuses a GPU where there is none.

    Raises:
        ConfigError: there is none.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(problem("device", found=f"{device}, but no GPU is usable here", allowed="cpu"))


def _norms(gallery: Rows, chunk: int, device: str | torch.device) -> Tensor:
    """Of all rows, (num_gallery,) float64; they are checked on the way."""
    norms = []
    for start in range(0, len(gallery), chunk):
        norms.append(_rows(gallery, start, start + chunk, device).double().norm(dim=1))
        _require_finite(norms[-1].isfinite(), start, "gallery")
    return torch.cat(norms)


def _rows(features: Rows, start: int, stop: int, device: str | torch.device) -> Tensor:
    block = features[start:stop]
    if isinstance(block, np.ndarray):
        # A memory-mapped array is read-only, which torch wraps only with a warning: copy the block.
        block = torch.from_numpy(np.ascontiguousarray(block) if block.flags.writeable else np.array(block, order="C"))
    return block.to(device)


def _require_finite(finite: Tensor, start: int, name: str) -> None:
    if not finite.all():
        row = start + int(finite.logical_not().nonzero()[0, 0])
        raise DataError(problem(name, found=f"NaN or infinity in row {row}", allowed="finite features"))
