"""Where to look first: around each of G reference points, the centroids that are near it, and how far the others are.

A row x is held against the reference point m that is about the nearest to it, and against the L centroids that are
nearest to m. Every other centroid c is at least R from m, so by the triangle inequality |x - c| >= R - |x - m|. If the
best of the L is no farther than that, none of the others can be nearer: the row is certain, having been held against
G + L vectors instead of K. The others are held against all. So what is found is what a search of all finds; how many
rows are certain decides on time alone, and where they are too few, nothing is looked up here any more.

(The bound is that of Elkan, "Using the triangle inequality to accelerate k-means", 2003, for reference points that are
no centroids.) All lengths are those of vectors less the common shift of ``tile.py``; bounds are enlarged by more than
what rounding can take from them.

Legend: n rows, D dimensions, K centroids, G reference points, L centroids near one, P pairs of a row and a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vissl_clusterfit.search import error_bounds
from vissl_clusterfit.search.error_bounds import RoundedOperand
from vissl_clusterfit.search.near_lists import scores_near

#: With fewer centroids, all products take less time than finding out which to leave out.
FEWEST_CENTROIDS = 2048
#: Rows of a search are best so many at a time, if they are in memory anyway.
BEST_ROWS = 8192
#: With fewer rows, a reference point has too few for a product.
FEWEST_ROWS_WITH_POINTS = 512
#: One reference point for so many centroids, and each has the nearest one of so many.
CENTROIDS_PER_REFERENCE, NEAR_ONE_OF = 16, 32
_ITERATIONS = 2
# Scores of so many values are computed at a time while the lists are made.
_BLOCK_VALUES = 1 << 22
# Rows of one product with the reference points.
_POINT_ROWS = 2048
# Of rows that were looked at, so many at least, this share must be certain, or it does not pay.
_LOOKED_AT, _SHARE_THAT_PAYS = 4096, 0.5
# What rounding may take from a length, in units of the lengths that it is computed from; far more than it does.
_ROUNDING = 2.0**-17


@dataclass(frozen=True, eq=False)
class Candidates:
    """What may be the nearest.

    Attributes:
        row, candidate: pairs (P,) int64, of the rows that are certain.
        certain: (n,) bool, rows all of whose candidates are among the pairs.
    """

    row: torch.Tensor
    candidate: torch.Tensor
    certain: torch.Tensor


class Neighbourhoods:
    """The centroids near reference points.

    Args:
        centroids: (K, D) float32, less the common shift.
        operand: (K, W) of the product type, of the centroids; W - D columns have half the squared norms.
        prepared: what the centroids lost when they were rounded.
    """

    def __init__(self, centroids: torch.Tensor, operand: torch.Tensor, prepared: RoundedOperand) -> None:
        num_clusters, self._dim = centroids.shape
        self._operand, self._prepared, self._dtype = operand, prepared, operand.dtype
        self._longest = float(prepared.norms.max())
        points = centroids[::CENTROIDS_PER_REFERENCE].clone()
        for _ in range(_ITERATIONS):
            self._take_as_reference(points)
            group = torch.cat([(part @ self._points.T).argmax(dim=1) for part in self._with_ones(operand)])
            sizes = torch.bincount(group, minlength=len(points))[:, None]
            means = torch.zeros_like(points).index_add_(0, group, centroids) / sizes.clamp(min=1)
            points = torch.where(sizes > 0, means, points)
        self._take_as_reference(points)
        self._near, self._reach = self._lists(points, centroids, max(1, num_clusters // NEAR_ONE_OF))
        self._looked_at = self._certain = 0

    @property
    def pays(self) -> bool:
        """Whether enough rows were certain so far."""
        return self._certain >= _SHARE_THAT_PAYS * self._looked_at or self._looked_at < _LOOKED_AT

    @property
    def num_near(self) -> int:
        """L."""
        return self._near.shape[1]

    def _take_as_reference(self, points: torch.Tensor) -> None:
        self._points = torch.zeros(len(points), self._operand.shape[1], dtype=self._dtype)
        no_shift = torch.zeros(self._dim)
        self._of_points = error_bounds.shifted(points, no_shift, 1.0, self._points[:, : self._dim])
        halves = points.double().square_().sum(dim=1) / -2
        self._points[:, self._dim : self._dim + 3] = error_bounds.split_float64(halves, self._dtype)

    def _with_ones(self, operand: torch.Tensor) -> list[torch.Tensor]:
        """Centroids as the rows of a product, some at a time."""
        rows = operand.clone()
        rows[:, self._dim :] = 0
        rows[:, self._dim : self._dim + 3] = 1
        return list(rows.split(max(1, _BLOCK_VALUES // len(self._points))))

    def _lists(self, points: torch.Tensor, centroids: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest centroids of each reference point (G, L) int32, and how far the next one is at least (G,)."""
        near, reach = [], []
        squares = centroids.square().sum(dim=1)
        for part in points.split(max(1, _BLOCK_VALUES // len(centroids))):
            own = part.square().sum(dim=1, keepdim=True)
            squared = torch.addmm(squares, part, centroids.T, alpha=-2).add_(own)
            nearest = squared.topk(count + 1, dim=1, largest=False)
            near.append(nearest.indices[:, :count].int())
            # Each is right to within some (D + 4)u of both squared lengths (see error_bounds.py).
            slack = 2.0**-22 * (self._dim + 8) * (own[:, 0] + self._longest**2)
            reach.append((nearest.values[:, count] - slack).clamp_(min=0).sqrt_())
        return torch.cat(near), torch.cat(reach)

    def candidates(self, operand: torch.Tensor, prepared: RoundedOperand, count: int) -> Candidates:
        """What may be among the ``count`` nearest of rows; of those that are not certain, nothing.

        Args:
            operand: (n, W) of the product type, the rows.
            prepared: what they lost when they were rounded.
            count: at most L.
        """
        to_points = error_bounds.score_error(prepared, self._of_points, self._dim)
        found = [(part @ self._points.T).max(dim=1) for part in operand.split(_POINT_ROWS)]
        best, group = (torch.cat(side) for side in zip(*found, strict=True))
        away = self._distance(best, to_points, prepared)
        error = error_bounds.score_error(prepared, self._prepared, self._dim)
        scores = scores_near(operand, self._operand, group, self._near)
        best = scores.topk(count, dim=1).values[:, -1] if count > 1 else scores.amax(dim=1)
        reach = self._reach[group] - _ROUNDING * (self._longest + prepared.norms)
        certain = self._distance(best, error, prepared) + away <= reach
        self._looked_at += len(operand)
        self._certain += int(certain.sum())
        limit = error_bounds.score_threshold(best, error, self._dtype)
        limit[~certain] = torch.inf
        row, member = (scores.float() >= limit[:, None]).nonzero().unbind(1)
        return Candidates(row, self._near[group[row], member].long(), certain)

    def _distance(self, scores: torch.Tensor, error: torch.Tensor, rows: RoundedOperand) -> torch.Tensor:
        """At least the distances (n,) that these computed scores (n,) stand for."""
        least = error_bounds.least_score(scores, error, self._dtype)
        return (rows.norms.square() - 2 * least).clamp_(min=0).sqrt_() * (1 + _ROUNDING)
