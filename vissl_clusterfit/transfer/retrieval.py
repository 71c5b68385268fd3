"""Category-level retrieval: how early the samples of a query's own class come when a gallery is ranked by likeness.

Shapes in names: Q queries of one chunk, G gallery samples, R relevant samples of the query that has most, D dimensions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.search.threads import in_parallel, keep_freed_memory
from vissl_clusterfit.transfer.checks import check_features, checked_labels
from vissl_clusterfit.transfer.neighbors import COSINE_GRID
from vissl_clusterfit.transfer.rows import LEAST_NORM, Rows, parts_of, read_rows, require_device, row_norms, unit_rows

# Below every key of a sample: nothing that has it counts.
_NOBODY = torch.iinfo(torch.int64).min
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
# Keys that are held at a time, of 8 bytes each: so many queries times the whole gallery, but at least so many queries.
_KEYS = 1 << 25
_LEAST_QUERIES = 64


@dataclass(frozen=True)
class RetrievalResult:
    """What came out.

    Attributes:
        mean_average_precision: Over the queries that have a relevant sample, between 0 and 1.
        average_precisions: (num_queries,) float64, NaN for a query without a relevant sample.
        num_without_match: The queries without a relevant sample.
    """

    mean_average_precision: float
    average_precisions: np.ndarray
    num_without_match: int


def category_retrieval(
    queries: Rows,
    query_labels: np.ndarray | Tensor,
    gallery: Rows | None = None,
    gallery_labels: np.ndarray | Tensor | None = None,
    *,
    device: str | torch.device = "cpu",
    gallery_chunk: int = 8192,
) -> RetrievalResult:
    """Ranks the gallery for each query by cosine similarity, and scores where the samples of its class stand.

    With the R gallery samples of the query's class, of which the i-th that comes up stands at place k_i, ::

        AP = 1/R * sum over i = 1 … R of  i / k_i          mAP = mean of AP over the queries

    which is the precision at the place of each relevant sample, averaged over **all** relevant samples and not those
    among the first few (Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, section 8.4;
    without ties scikit-learn's ``average_precision_score``). It is not the interpolated curve of PASCAL VOC, nor the
    trapezoids of Oxford and Paris. Where the queries are the gallery, a query is taken out of its own ranking; samples
    with other indices stay in it, equal ones too. A query without a relevant sample has no AP and is left out of the
    mean, and counted.

    Similarities are computed in float64 and rounded to about 1e-9; of equally similar samples the one with the smaller
    index comes first, where scikit-learn averages over the tie. So the result depends neither on chunk sizes nor on the
    device. No ranking is sorted: the places of the relevant samples are counted, which takes log R steps for each
    gallery sample.

    Args:
        queries: ``(num_queries, dim)``, any float dtype; may be memory-mapped.
        query_labels: ``(num_queries,)`` whole numbers from 0.
        gallery: ``(num_gallery, dim)``, likewise; None: the queries are the gallery.
        gallery_labels: ``(num_gallery,)`` whole numbers from 0; None with the gallery.
        device: Where to compute.
        gallery_chunk: Gallery samples per block. Memory is 8 bytes for each gallery sample and query of a chunk, of
            which there are at least 64, and some blocks.

    Raises:
        ConfigError: a GPU is asked for where there is none.
        DataError: features or labels that cannot be used, or no query has a relevant sample.
    """
    same = gallery is None
    candidates: Rows = queries if gallery is None else gallery
    check_features(candidates, "gallery", queries, "queries")
    require_device(device)
    wanted = torch.from_numpy(checked_labels(query_labels, len(queries), "query_labels"))
    present = wanted if same else torch.from_numpy(checked_labels(gallery_labels, len(candidates), "gallery_labels"))
    assert len(candidates) <= _INDEX_MASK, "indices of the gallery must fit into 32 bits"

    keep_freed_memory()
    norms_G = row_norms(candidates, gallery_chunk, device, "gallery")
    # What brings a product with a row as it came to the grid.
    factors_G = COSINE_GRID / norms_G.clamp(min=LEAST_NORM)
    by_class = _ByClass(present.to(device))
    precisions = []
    size = max(_LEAST_QUERIES, _KEYS // len(candidates))
    for start in range(0, len(queries), size):
        queries_QD = unit_rows(queries, start, start + size, device, "queries")
        keys_QG = _keys(queries_QD, candidates, factors_G, gallery_chunk)
        if same:
            own = torch.arange(len(queries_QD), device=device)
            keys_QG[own, own + start] = _NOBODY
        relevant_QR = by_class.keys_of(wanted[start : start + size].to(device), keys_QG)
        precisions.append(_average_precisions(keys_QG, relevant_QR, gallery_chunk).cpu())
    found = torch.cat(precisions).numpy()
    without = int(np.isnan(found).sum())
    if without == len(found):
        what = "no query whose class has another sample" if same else "no query whose class is in the gallery"
        raise DataError(problem("The queries", found=what, allowed="at least one"))
    return RetrievalResult(float(np.nanmean(found)), found, without)


def retrieval_protocol(gallery: str, num_without_match: int) -> str:
    """The text by which someone else can compute the same number.

    Args:
        gallery: "test", where the queries are the gallery, or "train".
        num_without_match: The queries that are left out.
    """
    among = (
        "the other samples of the test split, the query itself left out" if gallery == "test" else "the training split"
    )
    without = f"; {num_without_match} queries without a relevant sample left out" if num_without_match else ""
    return (
        "category-level retrieval on frozen features scaled to unit L2 norm; every test sample is a query; "
        f"{among}, ranked by cosine similarity, of equal ones the first; relevant is who has the query's class; "
        "average precision over all relevant samples, 1/R * sum of i / k_i k_i the place of the i-th relevant one; "
        f"mean over queries{without}"
    )


def _keys(queries_QD: Tensor, gallery: Rows, factors_G: Tensor, chunk: int) -> Tensor:
    """One int64 for each query and gallery sample: in descending order they are the ranking.

    The upper bits hold the cosine's place on the grid, the lower ones the index, counted from the end.
    """
    device, num_queries = queries_QD.device, len(queries_QD)
    keys_QG = torch.empty(num_queries, len(gallery), dtype=torch.int64, device=device)
    # Made once: memory that is given back to the system after each block would have to be cleared for the next.
    rows = torch.empty(min(chunk, len(gallery)), queries_QD.shape[1], dtype=torch.float64, device=device)
    products = torch.empty(num_queries * len(rows), dtype=torch.float64, device=device)
    for start in range(0, len(gallery), chunk):
        as_they_came_GD = read_rows(gallery, start, start + chunk, device)
        rows_GD = rows[: len(as_they_came_GD)]
        copy = functools.partial(_copy_part, as_they_came_GD, rows_GD)
        in_parallel(copy, parts_of(rows_GD))
        grid_QG = products[: num_queries * len(rows_GD)].view(num_queries, len(rows_GD))
        torch.mm(queries_QD, rows_GD.T, out=grid_QG)
        into_QG = keys_QG[:, start : start + len(rows_GD)]
        into_QG.copy_(grid_QG.mul_(factors_G[start : start + len(rows_GD)]).round_())
        places_G = torch.arange(start, start + len(rows_GD), device=device)
        into_QG.bitwise_left_shift_(_INDEX_BITS).add_(_INDEX_MASK - places_G)
    return keys_QG


def _copy_part(from_GD: Tensor, to_GD: Tensor, part: slice) -> None:
    to_GD[part] = from_GD[part]


class _ByClass:
    """The gallery's samples of each class."""

    def __init__(self, labels_G: Tensor) -> None:
        self._order_G = labels_G.argsort(stable=True)
        self._sorted_G = labels_G[self._order_G]

    def keys_of(self, labels_Q: Tensor, keys_QG: Tensor) -> Tensor:
        """The keys of each query's relevant samples, (Q, R) ascending; missing ones are first, and are nobody's."""
        begin_Q = torch.searchsorted(self._sorted_G, labels_Q)
        end_Q = torch.searchsorted(self._sorted_G, labels_Q, right=True)
        places_QR = begin_Q[:, None] + torch.arange(int((end_Q - begin_Q).max()), device=labels_Q.device)
        missing_QR = places_QR >= end_Q[:, None]
        indices_QR = self._order_G[places_QR.clamp_(max=len(self._order_G) - 1)]
        return keys_QG.gather(1, indices_QR).masked_fill_(missing_QR, _NOBODY).sort(dim=1).values


def _average_precisions(keys_QG: Tensor, relevant_QR: Tensor, chunk: int) -> Tensor:
    """AP of each query, (Q,) float64; NaN where nothing is relevant."""
    num_queries, num_places = relevant_QR.shape
    # How many gallery samples fall between two relevant ones; the last place holds those above all.
    between = torch.zeros(num_queries * (num_places + 1), dtype=torch.int64, device=keys_QG.device)
    rows_Q1 = torch.arange(num_queries, device=keys_QG.device)[:, None] * (num_places + 1)
    for keys in keys_QG.split(chunk, dim=1):
        places = torch.searchsorted(relevant_QR, keys.contiguous(), right=True).add_(rows_Q1)
        between += torch.bincount(places.flatten(), minlength=len(between))
    # From the top down: a relevant sample's place is the number of samples that do not stand below it.
    ranks_QR = between.view(num_queries, num_places + 1)[:, 1:].flip(1).cumsum(1)
    real_QR = relevant_QR.flip(1) != _NOBODY
    nth_R = torch.arange(1, num_places + 1, device=keys_QG.device)
    precisions_QR = torch.where(real_QR, nth_R / ranks_QR.clamp(min=1).double(), 0.0)
    return precisions_QR.sum(dim=1) / real_QR.sum(dim=1)
