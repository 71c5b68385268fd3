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
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.search.threads import keep_freed_memory, parallel_map
from vissl_clusterfit.transfer.checks import check_features, validate_labels
from vissl_clusterfit.transfer.neighbors import COSINE_GRID
from vissl_clusterfit.transfer.rows import LEAST_NORM, Rows, parts_of, read_rows, require_device, row_norms, unit_rows

# Below every key of a sample: nothing that has it counts.
_NO_KEY = torch.iinfo(torch.int64).min
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

    With the R gallery samples of the query's class, of which the i-th that comes up is at place k_i, ::

        AP = 1/R * sum over i = 1 … R of  i / k_i          mAP = mean of AP over the queries

    which is the precision at the place of each relevant sample, averaged over **all** relevant samples and not those
    among the first few (Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, section 8.4;
    without ties scikit-learn's ``average_precision_score``). Samples that are equally similar have no order, so that AP
    is its mean over all of theirs, in closed form (McSherry and Najork, "Computing Information Retrieval Performance
    Measures Efficiently in the Presence of Tied Scores", ECIR 2008): for a relevant one among n tied samples, r of
    them relevant, with N samples and P relevant ones before them, i / k_i becomes ::

        1/n * sum over j = 1 … n of  (P + 1 + (j - 1) (r - 1) / (n - 1)) / (N + j)

    It is not the interpolated curve of PASCAL VOC, nor the
    trapezoids of Oxford and Paris. Where the queries are the gallery, a query is taken out of its own ranking; samples
    with other indices stay in it, equal ones too. A query without a relevant sample has no AP and is left out of the
    mean, and counted.

    Similarities are computed in float64 and rounded to about 1e-9; what is equal then is a tie. So the result depends
    neither on chunk sizes nor on the device, nor on the order of the gallery. No ranking is sorted: the places of the
    relevant samples are counted, which takes log R steps for each gallery sample.

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
    wanted = torch.from_numpy(validate_labels(query_labels, len(queries), "query_labels"))
    present = wanted if same else torch.from_numpy(validate_labels(gallery_labels, len(candidates), "gallery_labels"))

    keep_freed_memory()
    norms_G = row_norms(candidates, gallery_chunk, device, "gallery")
    # What brings a product with a row as it came to the grid.
    factors_G = COSINE_GRID / norms_G.clamp(min=LEAST_NORM)
    by_class = _ByClass(present.to(device))
    # On the CPU, as a sum in another order would have other last bits.
    harmonic = torch.arange(1, len(candidates) + 1, dtype=torch.float64).reciprocal_().cumsum(0)
    harmonic = torch.cat([harmonic.new_zeros(1), harmonic]).to(device)
    precisions = []
    size = max(_LEAST_QUERIES, _KEYS // len(candidates))
    progress = Progress("Retrieval", len(queries), "queries")
    for start in range(0, len(queries), size):
        queries_QD = unit_rows(queries, start, start + size, device, "queries")
        keys_QG = _keys(queries_QD, candidates, factors_G, gallery_chunk)
        if same:
            own = torch.arange(len(queries_QD), device=device)
            keys_QG[own, own + start] = _NO_KEY
        relevant_QR = by_class.keys_of(wanted[start : start + size].to(device), keys_QG)
        precisions.append(_average_precisions(keys_QG, relevant_QR, harmonic, gallery_chunk).cpu())
        progress.add(len(queries_QD))
    progress.close()
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
        f"{among}, ranked by cosine similarity; relevant is who has the query's class; average precision over all "
        "relevant samples, 1/R * sum of i / k_i, k_i the place of the i-th relevant one, its mean over all orders of "
        "equally similar samples; "
        f"mean over queries{without}"
    )


def _keys(queries_QD: Tensor, gallery: Rows, factors_G: Tensor, chunk: int) -> Tensor:
    """One int64 for each query and gallery sample, the cosine's place on the grid: descending, they are the ranking."""
    device, num_queries = queries_QD.device, len(queries_QD)
    keys_QG = torch.empty(num_queries, len(gallery), dtype=torch.int64, device=device)
    # Made once: memory that is given back to the system after each block would have to be cleared for the next.
    rows = torch.empty(min(chunk, len(gallery)), queries_QD.shape[1], dtype=torch.float64, device=device)
    products = torch.empty(num_queries * len(rows), dtype=torch.float64, device=device)
    for start in range(0, len(gallery), chunk):
        as_they_came_GD = read_rows(gallery, start, start + chunk, device)
        rows_GD = rows[: len(as_they_came_GD)]
        copy = functools.partial(_copy_part, as_they_came_GD, rows_GD)
        parallel_map(copy, parts_of(rows_GD))
        grid_QG = products[: num_queries * len(rows_GD)].view(num_queries, len(rows_GD))
        torch.mm(queries_QD, rows_GD.T, out=grid_QG)
        into_QG = keys_QG[:, start : start + len(rows_GD)]
        into_QG.copy_(grid_QG.mul_(factors_G[start : start + len(rows_GD)]).round_())
    return keys_QG


def _copy_part(from_GD: Tensor, to_GD: Tensor, part: slice) -> None:
    to_GD[part] = from_GD[part]


class _ByClass:
    """The gallery's samples of each class."""

    def __init__(self, labels_G: Tensor) -> None:
        self._order_G = labels_G.argsort(stable=True)
        self._sorted_G = labels_G[self._order_G]

    def keys_of(self, labels_Q: Tensor, keys_QG: Tensor) -> Tensor:
        """The keys of each query's relevant samples, (Q, R) ascending; missing ones are first, of no sample."""
        begin_Q = torch.searchsorted(self._sorted_G, labels_Q)
        end_Q = torch.searchsorted(self._sorted_G, labels_Q, right=True)
        places_QR = begin_Q[:, None] + torch.arange(int((end_Q - begin_Q).max()), device=labels_Q.device)
        missing_QR = places_QR >= end_Q[:, None]
        indices_QR = self._order_G[places_QR.clamp_(max=len(self._order_G) - 1)]
        return keys_QG.gather(1, indices_QR).masked_fill_(missing_QR, _NO_KEY).sort(dim=1).values


def _average_precisions(keys_QG: Tensor, relevant_QR: Tensor, harmonic: Tensor, chunk: int) -> Tensor:
    """AP of each query, (Q,) float64; NaN where nothing is relevant. ``harmonic``: H_0 … H_G."""
    num_queries, num_relevant = relevant_QR.shape
    # How many gallery samples have each relevant one's key or a greater one, and how many a greater one.
    bounds_QB = torch.cat([relevant_QR, relevant_QR + 1], dim=1).sort(dim=1).values
    num_places = bounds_QB.shape[1] + 1
    between = torch.zeros(num_queries * num_places, dtype=torch.int64, device=keys_QG.device)
    rows_Q1 = torch.arange(num_queries, device=keys_QG.device)[:, None] * num_places
    for keys in keys_QG.split(chunk, dim=1):
        places = torch.searchsorted(bounds_QB, keys.contiguous(), right=True).add_(rows_Q1)
        between += torch.bincount(places.flatten(), minlength=len(between))
    above_QB = between.view(num_queries, num_places)[:, 1:].flip(1).cumsum(1).flip(1)
    with_ties_QR = above_QB.gather(1, torch.searchsorted(bounds_QB, relevant_QR))
    before_QR = above_QB.gather(1, torch.searchsorted(bounds_QB, relevant_QR + 1))
    tied_QR = with_ties_QR - before_QR
    end_QR = torch.searchsorted(relevant_QR, relevant_QR, right=True)
    relevant_tied_QR = end_QR - torch.searchsorted(relevant_QR, relevant_QR)
    first_QR = num_relevant - end_QR + 1  # P + 1
    real_QR = relevant_QR != _NO_KEY
    # A sample that is tied with none has no sum to take: the quotient is exact.
    alone_QR = first_QR / (before_QR + 1).double()
    with_ties_QR.clamp_(max=len(harmonic) - 1)  # those of no sample may be more
    sums_QR = harmonic[with_ties_QR] - harmonic[before_QR.clamp(max=len(harmonic) - 1)]
    others_QR = (relevant_tied_QR - 1) / (tied_QR - 1).clamp(min=1).double()
    shared_QR = (first_QR * sums_QR + others_QR * (tied_QR - (before_QR + 1) * sums_QR)) / tied_QR.clamp(min=1)
    precisions_QR = torch.where(tied_QR > 1, shared_QR, alone_QR)
    # From the top down, so that a ranking without ties is summed in its order.
    return torch.where(real_QR, precisions_QR, 0.0).flip(1).sum(dim=1) / real_QR.sum(dim=1)
