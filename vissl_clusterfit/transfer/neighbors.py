"""Exact nearest neighbours by cosine similarity or dot product, in bounded memory, on CPU or GPU.

Shapes in names: Q queries of one chunk, G gallery samples of one chunk, K neighbours, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.transfer.checks import check_features

# Cosines are compared on this grid (about 1e-9). Matrix products of float64 differ by 1e-15 from one chunk
# size or device to another; on the grid equal samples have equal cosines, and the tie rule decides.
_COSINE_GRID = 2**30
# A key within one block is the cosine on its grid times this range less the place in the block: 52 bits.
_LOCAL_RANGE = 2**22
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


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
    query_chunk: int = 1024,
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
        gallery_chunk: Gallery samples per block. Memory is proportional to
            ``query_chunk * (gallery_chunk + dim) + gallery_chunk * dim``.

    Yields:
        For one chunk of queries after the other: similarities ``(Q, num_neighbors)`` float64 in descending order,
        and gallery indices of the same shape, int64; both on ``device``.

    Raises:
        ConfigError: more neighbours than gallery samples, or a GPU is asked for where there is none.
        DataError: features that are empty, not 2-dimensional, of different dimensions, or not finite.
    """
    _check(queries, gallery, num_neighbors, device)
    assert similarity in ("cosine", "dot"), similarity
    # Dot products are brought between -1 and 1, as cosines are, and back.
    largest = _largest_norm(gallery, gallery_chunk, device) if similarity == "dot" else None
    gallery_chunk = min(gallery_chunk, _LOCAL_RANGE, len(gallery))
    # One block for all products: fresh memory for each would cost more than what is done in it.
    memory = torch.empty(min(query_chunk, len(queries)) * gallery_chunk, dtype=torch.float64, device=device)
    for query_start in range(0, len(queries), query_chunk):
        queries_QD = _unit_rows(queries, query_start, query_start + query_chunk, device, "queries")
        best_QK = torch.empty((len(queries_QD), 0), dtype=torch.int64, device=device)
        for start in range(0, len(gallery), gallery_chunk):
            gallery_GD = (
                _unit_rows(gallery, start, start + gallery_chunk, device, "gallery")
                if largest is None
                else _rows(gallery, start, start + gallery_chunk, device, "gallery") / largest
            )
            block_QG = memory[: len(queries_QD) * len(gallery_GD)].view(len(queries_QD), len(gallery_GD))
            torch.mm(queries_QD, gallery_GD.T, out=block_QG)
            candidates = torch.cat([best_QK, _best_keys(block_QG, start, num_neighbors)], dim=1)
            best_QK = candidates.topk(min(num_neighbors, candidates.shape[1]), dim=1).values
        similarities_QK = (best_QK >> _INDEX_BITS).double() / _COSINE_GRID
        if largest is not None:
            norms_Q = _rows(queries, query_start, query_start + query_chunk, device, "queries").norm(dim=1)
            similarities_QK *= largest * norms_Q[:, None]
        yield similarities_QK, _INDEX_MASK - (best_QK & _INDEX_MASK)


def _largest_norm(features: Rows, chunk: int, device: str | torch.device) -> float:
    starts = range(0, len(features), chunk)
    norms = (float(_rows(features, start, start + chunk, device, "gallery").norm(dim=1).max()) for start in starts)
    return max(norms) or 1.0


def _best_keys(cosines_QG: Tensor, start: int, num_neighbors: int) -> Tensor:
    """The neighbours found in one block, one int64 each; ``cosines_QG`` is overwritten.

    The upper bits hold the cosine's place on the grid, the lower ones the index, counted from the end. So no
    two keys of a query are equal and ``topk`` has no choice to make: of equal cosines the smaller index wins.
    Within the block the same is done in float64, which holds whole numbers exactly up to 2**53.
    """
    num_gallery = cosines_QG.shape[1]
    places_G = torch.arange(num_gallery, dtype=torch.float64, device=cosines_QG.device)
    cosines_QG.mul_(_COSINE_GRID).round_().mul_(_LOCAL_RANGE).sub_(places_G)
    found_QK = cosines_QG.topk(min(num_neighbors, num_gallery), dim=1).values
    grid_QK = (found_QK / _LOCAL_RANGE).ceil()
    indices_QK = (grid_QK * _LOCAL_RANGE - found_QK).long() + start
    return (grid_QK.long() << _INDEX_BITS) + (_INDEX_MASK - indices_QK)


def _unit_rows(features: Rows, start: int, stop: int, device: str | torch.device, name: str) -> Tensor:
    return normalize(_rows(features, start, stop, device, name), dim=1)


def _rows(features: Rows, start: int, stop: int, device: str | torch.device, name: str) -> Tensor:
    block = features[start:stop]
    # A memory-mapped array is read-only, which torch wraps only with a warning: copy the block.
    rows = torch.from_numpy(np.array(block)) if isinstance(block, np.ndarray) else block
    rows = rows.to(device).double()
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        row = start + int(finite.logical_not().nonzero()[0, 0])
        raise DataError(problem(name, found=f"NaN or infinity in row {row}", allowed="finite features"))
    return rows


def _check(queries: Rows, gallery: Rows, num_neighbors: int, device: str | torch.device) -> None:
    check_features(gallery, "gallery", queries, "queries")
    if not 1 <= num_neighbors <= len(gallery):
        allowed = f"1 to {len(gallery)}, the number of gallery samples"
        raise ConfigError(problem("num_neighbors", found=num_neighbors, allowed=allowed))
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(problem("device", found=f"{device}, but no GPU is usable here", allowed="cpu"))
    assert len(gallery) <= _INDEX_MASK, "indices of the gallery must fit into 32 bits"
