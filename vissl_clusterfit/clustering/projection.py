"""A linear projection whose result is the same to the last bit for a row, wherever it stands and on however many cores.

A matrix product in float32 takes other kernels for few rows, for the last ones, and for other numbers of threads, and
each adds up in an order of its own. Here both operands are rounded to whole numbers, times a power of two of each row,
with so few bits that float64 holds every partial sum exactly (as in ``reproducible_sums.py``; for products: Ozaki et
al., "Error-free transformations of matrix multiplication", 2012). Then the order is of no matter. A row keeps 24 bits
below its largest number, as many as float32 has; a component those that are left, 18 for 2,048 dimensions.

Legend: n rows, D dimensions, M components.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from vissl_clusterfit.search.threads import one_thread, parallel_map

_FLOAT64_BITS, _ROW_BITS = 53, 24
# Rows whose float64 copy stays in the processor's cache, and columns of one product of a covariance.
_BLOCK_ROWS, _BLOCK_COLUMNS = 256, 256


def rounded_components(components_MD: np.ndarray) -> np.ndarray:
    """Components with so few bits that products with rows are exact, as (M, D) float32."""
    whole, exponents = _whole_components(components_MD)
    return np.ldexp(whole, exponents).astype(np.float32)


class ExactProjection:
    """Projects rows on components.

    Args:
        mean: (D,) float32, subtracted from each row.
        components_MD: (M, D) float32; of others than :func:`rounded_components` gives, the last bits don't count.
    """

    def __init__(self, mean: np.ndarray, components_MD: np.ndarray) -> None:
        whole, self._exponents = _whole_components(components_MD)
        self._mean, self._components_DM = mean.astype(np.float64), np.ascontiguousarray(whole.T)

    def __call__(self, rows_nD: np.ndarray) -> np.ndarray:
        """(n, D) float32 to (n, M) float32."""
        projected = np.empty((len(rows_nD), self._components_DM.shape[1]), dtype=np.float32)
        for low in range(0, len(rows_nD), _BLOCK_ROWS):
            rows = rows_nD[low : low + _BLOCK_ROWS] - self._mean
            exponents = np.frexp(np.abs(rows).max(axis=1, keepdims=True))[1] - _ROW_BITS
            whole = np.rint(np.ldexp(rows, -exponents)) @ self._components_DM
            projected[low : low + _BLOCK_ROWS] = np.ldexp(whole, exponents + self._exponents.T)
        return projected


def _whole_components(components_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers (M, D) float64, and the exponents (M, 1) of the powers of two that they are to be multiplied by."""
    dim = components_MD.shape[1]
    bits = min(_ROW_BITS, _FLOAT64_BITS - _ROW_BITS - math.ceil(math.log2(dim)))
    exponents = np.frexp(np.abs(components_MD.astype(np.float64)).max(axis=1, keepdims=True))[1] - bits
    return np.rint(np.ldexp(components_MD.astype(np.float64), -exponents)), exponents


def add_products(squares_DD: np.ndarray, rows_nD: np.ndarray) -> None:
    """Adds the products of all pairs of columns of rows (n, D) float64 to the upper triangle of a matrix, in place.

    Always in the same blocks, each on one thread: the sums don't depend on the number of threads.
    """
    squares, rows = torch.from_numpy(squares_DD), torch.from_numpy(rows_nD).clone()  # which torch aligns

    def add(low: int) -> None:
        high = low + _BLOCK_COLUMNS
        squares[low:high, low:].addmm_(rows[:, low:high].T, rows[:, low:])

    parallel_map(add, range(0, len(squares_DD), _BLOCK_COLUMNS))


def eigenvectors(covariance_DD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (D,), ascending, and eigenvectors (D, D), one a column, of the upper triangle of a matrix.

    On one thread, so that they don't depend on the number of threads.
    """
    with one_thread():
        values, vectors = torch.linalg.eigh(torch.from_numpy(covariance_DD), UPLO="U")
    return values.numpy(), vectors.numpy()
