"""A heuristic search for the iterations of k-means: a row is held against the centroids near one of G points only.

The points are drawn once and stay. Each row belongs to the nearest one, and each point has a list of centroids: those
that belong to it, and those nearest to it, L in all. So a row is held against G + L vectors instead of K, and what is
found is the nearest of the L, which for most rows is the nearest of all. How many is measured on a sample of the rows
with every set of centroids: L is the least of a few numbers with which enough of them have their nearest centroid in
the list of their point, and where none is, the search is of all centroids. (Inverted lists, as in faiss's IVF and
Babenko and Lempitsky's "The inverted multi-index", 2012, here of centroids.)

Which point and which centroid of a list is the nearest is decided exactly, and lists do not depend on the rows that are
searched: so what is found depends neither on the number of threads and processes nor on how rows are cut into chunks.
Lists are ordered by float32 products: another kind of processor may order what is equally far within their rounding
otherwise.

Legend: n rows, D dimensions, K centroids, G points, L centroids in a list.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from vissl_clusterfit.search.neighbourhoods import BEST_ROWS
from vissl_clusterfit.search.protocol import Search, SearchFactory
from vissl_clusterfit.search.threads import parallel_map
from vissl_clusterfit.search.torch_search import TorchSearch, full_precision

#: With fewer centroids, all products take less time.
FEWEST_CENTROIDS_WITH_LISTS = 512
#: So many points for each root of K.
POINTS_PER_ROOT = 3
# Rows of a search for each point.
_ROWS_PER_POINT = 32
#: Rows of the sample on which lists are measured.
SAMPLE_ROWS = 512
# One in so many centroids is in a list, the first number that is enough; multiples of so many.
_ONE_IN = (64, 32, 16, 8)
_LIST_MULTIPLE = 16
# Of the sample, so many may have their nearest centroid elsewhere.
_MOST_MISSED = 0.005
# Squared distances are no less, so that they have a reciprocal in float32.
_LEAST_SQUARE = 1e-30
# Points of one product while the lists are made.
_BLOCK_POINTS = 32
# Rows of the sample whose lists are looked at together.
_BLOCK_ROWS = 64


def num_points(num_clusters: int) -> int:
    """G for K centroids."""
    return POINTS_PER_ROOT * math.isqrt(num_clusters)


def takes_lists(search: Search) -> bool:
    """Whether such a search may be one by lists."""
    return isinstance(search, TorchSearch) and search.takes_lists


def best_rows(number: int) -> int:
    """The rows that are best given at a time for so many points: a few for each, or products would be of very few."""
    return min(BEST_ROWS, _ROWS_PER_POINT * number)


class NearPoints:
    """Makes searches around points that stay the same.

    Args:
        points: (G, D) float32.
        sample: (S, D) float32, rows as they will be searched.
        search_factory: of exact searches.
    """

    def __init__(self, points: np.ndarray, sample: np.ndarray, search_factory: SearchFactory) -> None:
        self._points, self._sample, self._search_factory = torch.from_numpy(points), sample, search_factory
        self._squares = self._points.square().sum(dim=1, keepdim=True)
        self._sample_group = torch.from_numpy(search_factory(points).labels(sample))

    def __call__(self, centroids: np.ndarray) -> Search:
        """A search of (K, D) float32 centroids around the points; of all of them where lists would not be enough."""
        exact = self._search_factory(centroids)
        if not isinstance(exact, TorchSearch) or not exact.takes_lists:
            return exact
        near = self._lists(torch.from_numpy(centroids), torch.from_numpy(exact.labels(self._sample)))
        return exact if near is None else _NearSearch(exact, self._points.numpy(), near)

    def _lists(self, centroids: torch.Tensor, sample_labels: torch.Tensor) -> torch.Tensor | None:
        """(G, L) int32; None where L would be too large."""
        squares = centroids.square().sum(dim=1)

        def distances(block: slice) -> torch.Tensor:
            squared = torch.addmm(squares, self._points[block], centroids.T, alpha=-2)
            return squared.add_(self._squares[block])

        blocks = [slice(low, low + _BLOCK_POINTS) for low in range(0, len(self._points), _BLOCK_POINTS)]
        with full_precision():
            squared = torch.cat(parallel_map(distances, blocks))
        squared.clamp_(min=_LEAST_SQUARE)
        own = squared.argmin(dim=0), torch.arange(len(centroids))
        squared[own] = -1 / squared[own]  # first in the list, nearest first
        of_sample = zip(self._sample_group.split(_BLOCK_ROWS), sample_labels.split(_BLOCK_ROWS), strict=True)
        rank = torch.cat(parallel_map(lambda part: _ranks(squared, *part), of_sample))
        num_near = self._list_length(rank, len(centroids))
        if not num_near:
            return None
        nearest = parallel_map(lambda part: part.topk(num_near, largest=False).indices, squared.split(_BLOCK_POINTS))
        return torch.cat(nearest).int()

    def _list_length(self, rank: torch.Tensor, num_clusters: int) -> int:
        for one_in in _ONE_IN:
            length = -(-num_clusters // (one_in * _LIST_MULTIPLE)) * _LIST_MULTIPLE
            if float((rank >= length).float().mean()) <= _MOST_MISSED:
                return length
        return 0


def _ranks(squared: torch.Tensor, group: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """How many centroids come before the nearest one (n,) in the list of a row's point (n,), by distances (G, K)."""
    of_row = squared[group]
    return (of_row < of_row.gather(1, label[:, None])).sum(dim=1)


class _NearSearch:
    """Of centroids, by lists (G, L)."""

    card = None

    def __init__(self, exact: TorchSearch, points: np.ndarray, near: torch.Tensor) -> None:
        self._exact, self._num_points = exact, len(points)
        self._labels = exact.around(points, near)
        self.num_clusters, self.num_threads = exact.num_clusters, exact.num_threads

    @property
    def num_rows(self) -> int:
        """Several near each point."""
        return best_rows(self._num_points)

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest of the centroids in the list of each row's point, as (n,) int64."""
        return self._labels(rows_nD)

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of all centroids, exactly."""
        return self._exact.nearest(rows_nD, count)
