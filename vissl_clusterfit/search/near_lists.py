"""Lists of the centroids near each of G points, and the products of rows with the list of their point.

Legend: n rows, D dimensions, K centroids, G points, L centroids in a list.
"""

from __future__ import annotations

import torch

# Rows of one product with a list; and values of the lists of one call, which stay in the processor's cache.
_PIECE_ROWS, _LISTED_VALUES = 32, 1 << 20


def scores_near(
    operand: torch.Tensor, centroid_operand: torch.Tensor, group: torch.Tensor, near: torch.Tensor
) -> torch.Tensor:
    """Products of rows with the centroids near their points.

    Rows of the same point fill pieces of equal height, and a few pieces are one product: each by itself would take less
    time than its call.

    Args:
        operand: (n, W) of the product type, the rows.
        centroid_operand: (K, W).
        group: (n,) int64, the point of each row.
        near: (G, L) int32, the lists.

    Returns:
        (n, L) of the product type.
    """
    num_points, num_near = near.shape
    sizes = torch.bincount(group, minlength=num_points)
    pieces = -(-sizes // _PIECE_ROWS)
    order = group.argsort(stable=True)
    # Where a row is among the rows of all pieces: after the pieces of other points, and the rows of its own.
    place = torch.empty_like(order)
    first = _starts(pieces) * _PIECE_ROWS - _starts(sizes)
    place[order] = torch.arange(len(order)) + first[group[order]]
    # Powers of two at a time: oneDNN compiles and keeps a product for each number of pieces.
    most = 1 << max(0, (_LISTED_VALUES // (num_near * operand.shape[1])).bit_length() - 1)
    number = int(pieces.sum())
    filled_up = number // most * most + (1 << (number % most - 1).bit_length() if number % most else 0)
    source = torch.zeros(filled_up * _PIECE_ROWS, dtype=torch.int64)  # where there is no row, any
    source[place] = torch.arange(len(order))
    point = torch.zeros(filled_up, dtype=torch.int64)
    point[:number] = torch.repeat_interleave(torch.arange(num_points), pieces)
    scores = torch.empty(filled_up, _PIECE_ROWS, num_near, dtype=operand.dtype)
    for low in range(0, filled_up, most):
        of = point[low : low + most]
        rows = operand.index_select(0, source[low * _PIECE_ROWS : (low + len(of)) * _PIECE_ROWS])
        listed = centroid_operand.index_select(0, near[of].flatten())
        torch.bmm(
            rows.view(len(of), _PIECE_ROWS, -1),
            listed.view(len(of), num_near, -1).transpose(1, 2),
            out=scores[low : low + len(of)],
        )
    return scores.view(-1, num_near).index_select(0, place)


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return counts.cumsum(0) - counts
