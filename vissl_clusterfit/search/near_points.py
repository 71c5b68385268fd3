"""A heuristic search for the iterations of k-means, on vectors that are rounded to a grid of 8 bits (``grid.py``).

With few centroids a row is held against all of them. With more it is held against the centroids near it only, by way of
some points that are drawn once and stay. Each row belongs to the nearest one, and each point has a list of centroids:
those that belong to it, and those nearest to it, L in all. So a row is held against G + L vectors instead of K, and
what is found is the nearest of the L, which for most rows is the nearest of all. How many is measured on a sample of
the rows with every set of centroids: L is the least of a few numbers with which enough of them have their nearest
centroid in the list of their point; where none is, rows are held against all. (Inverted lists, as in faiss's IVF and
Babenko and Lempitsky's "The inverted multi-index", 2012, here of centroids.)

What rounding costs is measured on the same sample: where the centroids that it finds are noticeably farther than the
nearest ones, the search is the exact one. So it is for rows that the grid does not reach.

All is decided in whole numbers, and nothing depends on the other rows of a search: so what is found depends neither on
the number of threads and processes, nor on how rows are cut into chunks, nor on the processor.

Legend: n rows, S of the sample, D dimensions, K centroids, G points, L centroids in a list.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable

import numpy as np
import torch

from vissl_clusterfit.search.grid import MOST_DIMS, Grid, GridCentroids, largest
from vissl_clusterfit.search.protocol import Search, SearchFactory
from vissl_clusterfit.search.threads import one_thread, parallel_map
from vissl_clusterfit.search.torch_search import TorchSearch

#: With fewer centroids, rounding the rows takes as long as it saves.
FEWEST_CENTROIDS = 512
#: With fewer, rows are held against all of them.
FEWEST_CENTROIDS_WITH_LISTS = 2048
#: So many points for each root of K.
POINTS_PER_ROOT = 3
# Rows of a search: as many for each point, and all.
_ROWS_PER_POINT, _MOST_ROWS = 32, 8192
#: Rows of the sample on which lists are measured.
SAMPLE_ROWS = 512
# One in so many centroids is in a list, the first number that is enough; multiples of so many.
_ONE_IN = (64, 32, 16, 8)
_LIST_MULTIPLE = 16
# Of the sample, so many may have their nearest centroid elsewhere.
_MOST_MISSED = 0.005
# By this share of the mean squared distance may the centroids that rounding finds be farther.
_MOST_LOST = 0.002
# What the squared distance of a centroid from its own point is less by, in whole numbers: more than there are.
_FIRST = 1 << 32
# Points whose lists are made at a time, at most, and what they are ordered by.
_BLOCK_POINTS, _BLOCK_KEYS = 16, 1 << 18
# Centroids that are rounded at a time, and rows of the sample that are looked at.
_BLOCK_ROWS, _BLOCK_SAMPLE = 256, 256
# Rows of one product with a list: multiples of the first, up to the second, as each height is compiled and kept.
_PIECE_ROWS, _MOST_PIECE_ROWS = 32, 256


def num_points(num_clusters: int) -> int:
    """G for K centroids."""
    return POINTS_PER_ROOT * math.isqrt(num_clusters)


def takes_grid(search: Search, dim: int) -> bool:
    """Whether such a search may be replaced by one on a grid: a GPU would wait for many small products."""
    return isinstance(search, TorchSearch) and search.card is None and dim <= MOST_DIMS


def best_rows(number: int) -> int:
    """The rows that are best given at a time for so many points: a few for each, or products would be of very few."""
    return min(_MOST_ROWS, _ROWS_PER_POINT * number)


class NearPoints:
    """Makes searches around points that stay the same.

    Args:
        points: gives (G, D) float32, when lists are made.
        sample: (S, D) float32, rows as they will be searched.
        search_factory: of exact searches.
    """

    def __init__(self, points: Callable[[], np.ndarray], sample: np.ndarray, search_factory: SearchFactory) -> None:
        self._make_points, self._sample, self._search_factory = points, torch.from_numpy(sample), search_factory
        with one_thread():  # short operations, in which threads would mostly wait for each other
            self._grid = Grid.around(sample)
            self._rounded_sample, _ = self._grid.rounded(sample)

    @functools.cached_property
    def _points(self) -> GridCentroids:
        points = self._make_points()
        with one_thread():
            return GridCentroids(*self._grid.rounded(points))

    @functools.cached_property
    def _sample_group(self) -> np.ndarray:
        with one_thread():
            return self._points.nearest(self._rounded_sample)[:, 0].numpy()

    def __call__(self, centroids: np.ndarray) -> Search:
        """A search of (K, D) float32 centroids on the grid; the exact one where that would not find near ones."""
        parts = np.split(centroids, range(_BLOCK_ROWS, len(centroids), _BLOCK_ROWS))
        rounded = [torch.cat(side) for side in zip(*parallel_map(self._grid.rounded, parts), strict=True)]
        with one_thread():
            on_grid = GridCentroids(*rounded)
        look = functools.partial(self._nearest_of_sample, torch.from_numpy(centroids), on_grid)
        found = parallel_map(look, range(0, len(self._sample), _BLOCK_SAMPLE))
        first, nearer = (math.fsum(squared) for squared in zip(*(squared for _, squared in found), strict=True))
        if first - nearer > _MOST_LOST * nearer:
            return self._search_factory(centroids)
        exact, near = functools.partial(self._search_factory, centroids), None
        if len(centroids) >= FEWEST_CENTROIDS_WITH_LISTS:
            near = self._lists(on_grid, np.concatenate([labels for labels, _ in found]))
        if near is None:
            return GridSearch(self._grid, on_grid, exact)
        return NearSearch(self._grid, on_grid, exact, (self._points, near))

    def _nearest_of_sample(
        self, centroids: torch.Tensor, on_grid: GridCentroids, low: int
    ) -> tuple[np.ndarray, tuple[float, float]]:
        """Labels of rows from ``low`` on; and sums of squared distances, from them and from the nearer ones of two."""
        of = slice(low, low + _BLOCK_SAMPLE)
        two = on_grid.nearest(self._rounded_sample[of], 2)
        squared = (self._sample[of, None] - centroids[two]).double().square_().sum(dim=2)
        return two[:, 0].numpy(), (float(squared[:, 0].sum()), float(squared.amin(dim=1).sum()))

    def _lists(self, rounded: GridCentroids, sample_labels: np.ndarray) -> torch.Tensor | None:
        """(G, L) int32, ascending in each; None where L would be too large."""
        number = len(rounded)
        own = torch.cat(parallel_map(self._points.nearest, rounded.rounded.split(_BLOCK_ROWS)))[:, 0].numpy()
        lengths = [-(-number // (one_in * _LIST_MULTIPLE)) * _LIST_MULTIPLE for one_in in _ONE_IN]
        ends = [length - 1 for length in lengths]

        def listed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Of some points the longest lists, the nearest ones first, and which rows of the sample miss each end."""
            keys = rounded.squared_distances(self._points.rounded[points])
            keys[own == points[:, None]] -= _FIRST
            keys = keys * number + np.arange(number)  # of those equally far, the first one
            rows = np.flatnonzero(np.isin(self._sample_group, points))
            group = self._sample_group[rows] - points[0]
            of_rows = keys[group, sample_labels[rows]]
            keys.partition(ends, axis=1)
            return (keys[:, : lengths[-1]] % number).astype(np.int32), of_rows[:, None] > keys[group][:, ends]

        size = max(1, min(_BLOCK_POINTS, _BLOCK_KEYS // number))
        every = np.arange(len(self._points))
        near, missed = zip(*parallel_map(listed, np.split(every, every[size::size])), strict=True)
        for length, share in zip(lengths, np.concatenate(missed).mean(axis=0), strict=True):
            if share <= _MOST_MISSED:
                return torch.from_numpy(np.sort(np.concatenate(near)[:, :length]))
        return None


class GridSearch:
    """Of all centroids on a grid.

    Args:
        grid: on which they and the rows are.
        centroids: K of them.
        exact: makes the exact search of them.
    """

    card = None

    def __init__(self, grid: Grid, centroids: GridCentroids, exact: Callable[[], Search]) -> None:
        self._grid, self._centroids, self._make_exact = grid, centroids, exact
        self.num_clusters, self.num_threads = len(centroids), torch.get_num_threads()
        self._making = threading.Lock()
        self._made: Search | None = None

    @property
    def num_rows(self) -> int:
        """Any."""
        return 0

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """A near centroid of each row, as (n,) int64: on the grid the nearest of those that are looked at."""
        rounded, beyond = self._grid.rounded(rows_nD)
        labels = self._labels(rounded).numpy()
        if beyond.any():
            labels[beyond] = self._exact.labels(rows_nD[beyond])
        return labels

    def _labels(self, rounded: torch.Tensor) -> torch.Tensor:
        return self._centroids.nearest(rounded)[:, 0]

    @property
    def _exact(self) -> Search:
        with self._making:
            if self._made is None:
                self._made = self._make_exact()
        return self._made

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of all centroids, exactly."""
        return self._exact.nearest(rows_nD, count)


class NearSearch(GridSearch):
    """Of those centroids on a grid that are near the nearest of some points.

    Args:
        grid, centroids, exact: as above.
        lists: the points, G of them, and the centroids near each, (G, L) int32, ascending.
    """

    def __init__(
        self,
        grid: Grid,
        centroids: GridCentroids,
        exact: Callable[[], Search],
        lists: tuple[GridCentroids, torch.Tensor],
    ) -> None:
        super().__init__(grid, centroids, exact)
        self._points, self._near = lists

    @property
    def num_rows(self) -> int:
        """Several near each point."""
        return best_rows(len(self._points))

    def _labels(self, rounded: torch.Tensor) -> torch.Tensor:
        group = self._points.nearest(rounded)[:, 0]
        order = group.argsort(stable=True)
        ends = torch.bincount(group, minlength=len(self._points)).cumsum(0).tolist()
        # Rows of the same point side by side; a product takes rows of the next one where it has too few.
        of_points = torch.zeros(len(rounded) + _PIECE_ROWS, rounded.shape[1], dtype=torch.int8)
        torch.index_select(rounded, 0, order, out=of_points[: len(rounded)])
        chosen, begin = np.empty(len(rounded), dtype=np.int64), 0
        for near, end in zip(self._near, ends, strict=True):
            if begin < end:
                listed = self._centroids.among(near)
            for low in range(begin, end, _MOST_PIECE_ROWS):
                high = min(low + _MOST_PIECE_ROWS, end)
                height = -(-(high - low) // _PIECE_ROWS) * _PIECE_ROWS
                scores = listed.scores(of_points[low : low + height])
                chosen[low:high] = largest(scores[: high - low])
            begin = end
        labels = torch.empty(len(rounded), dtype=torch.int64)
        labels[order] = self._near[group[order], torch.from_numpy(chosen)].long()
        return labels
