"""What is done to a feature before it is compared with centroids: once fitted, the same for fit and assign.

In this order: scale to unit norm, project on principal components (whitened or not), scale to unit norm
again. VISSL's ClusterFit recipe is the first step alone; the second is its DIMENSIONALITY_REDUCTION.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.clustering.projection import ExactProjection, add_products, eigenvectors, rounded_components
from vissl_clusterfit.clustering.protocol import VectorSource
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.search.norms import row_squares

logger = logging.getLogger(__name__)

# A component with less than this share of the largest variance holds only the rounding of float32 features.
_MIN_VARIANCE_SHARE = 1e-12
# Outside of this range a sum of float32 squares is not exact enough, or overflows.
_SAFE_SQUARES = (1e-30, 1e38)


#: How a projection is computed: so that a row's does not depend on its place, or as codebooks before it did, by a
#: product in float32.
EXACT, IN_FLOAT32 = "exact", "float32"


def unit_rows(rows_nD: np.ndarray, *, in_place: bool = False) -> np.ndarray:
    """Rows scaled to unit L2 norm, as (n, D) float32. Rows of zeros stay as they are.

    Args:
        rows_nD: (n, D) float32.
        in_place: overwrite them instead of taking memory for the result.
    """
    with np.errstate(over="ignore", under="ignore"):
        squares = row_squares(rows_nD)
    safe = (squares > _SAFE_SQUARES[0]) & (squares < _SAFE_SQUARES[1])
    rows = rows_nD[~safe].astype(np.float64)
    norms = np.sqrt(np.where(safe, squares, 1), dtype=np.float32)[:, None]
    out = np.divide(rows_nD, norms, out=rows_nD if in_place else None)
    if len(rows):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        out[~safe] = rows / np.where(norms > 0, norms, 1)
    return out


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """A fixed map from raw features to the vectors that are clustered; by default the identity.

    Attributes:
        normalize: scale features to unit norm first.
        mean: (D,) float32, subtracted before the projection; None for no projection.
        components: (D_out, D) float32, rows to project on, divided by the standard deviation when whitened.
        unit_output: scale to unit norm at the end (spherical k-means).
        product: how the projection is computed, ``EXACT`` or ``IN_FLOAT32``.
    """

    normalize: bool = False
    mean: np.ndarray | None = None
    components: np.ndarray | None = None
    unit_output: bool = False
    product: str = EXACT

    def output_dim(self, input_dim: int) -> int:
        """D_out for features of D dimensions."""
        return input_dim if self.components is None else len(self.components)

    @property
    def gives_unit_rows(self) -> bool:
        """Whether every vector that comes out has unit norm, or is zero."""
        return self.unit_output or (self.normalize and self.components is None)

    def equals(self, other: Preprocessing) -> bool:
        """Whether the other one gives the same vectors, to the bit."""
        arrays = ((self.mean, other.mean), (self.components, other.components))
        own_steps = (self.normalize, self.unit_output, self.product)
        return own_steps == (other.normalize, other.unit_output, other.product) and all(
            own is others if own is None or others is None else np.array_equal(own, others) for own, others in arrays
        )

    def apply(self, rows_nD: np.ndarray, *, in_place: bool = False) -> np.ndarray:
        """Raw features (n, D) float32, which ``in_place`` may overwrite, to vectors (n, D_out) float32."""
        if self.normalize:
            rows_nD = unit_rows(rows_nD, in_place=in_place)
        if self._projection is not None:
            rows_nD = self._projection(rows_nD)
        elif self.components is not None:
            rows_nD = (rows_nD - self.mean) @ self.components.T
        if self.unit_output:
            rows_nD = unit_rows(rows_nD)
        return rows_nD

    @functools.cached_property
    def _projection(self) -> ExactProjection | None:
        if self.mean is None or self.components is None or self.product == IN_FLOAT32:
            return None
        return ExactProjection(self.mean, self.components)


def fit_preprocessing(
    source: VectorSource,
    *,
    normalize: bool,
    num_components: int = 0,
    whiten: bool = False,
    unit_output: bool = False,
) -> Preprocessing:
    """Fits the projection on raw features: an exact PCA in one pass, in float64.

    The covariance takes 8·D² bytes; nothing grows with the number of features. The number of threads changes no bit;
    components are rounded as ``projection.py`` says. The sign of a component is the
    one that makes its largest entry positive. With ``whiten``, components have unit variance on the fitted
    features (n - 1 in the denominator); those without variance give 0.

    Args:
        source: raw features, the same that are clustered afterwards.
        normalize: see :class:`Preprocessing`.
        num_components: D_out; 0 for no projection.
        whiten: see :class:`Preprocessing`.
        unit_output: see :class:`Preprocessing`.

    Raises:
        ConfigError: more components than dimensions or features.
    """
    if not num_components:
        return Preprocessing(normalize=normalize, unit_output=unit_output)
    limit = min(source.dim, source.num_vectors)
    if num_components > limit:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.FEATURES.DIMENSIONALITY_REDUCTION",
                found=num_components,
                allowed=f"0 to {limit} ({source.num_vectors} features of {source.dim} dimensions are used)",
                remedy="Lower it, or set it to 0 to keep all dimensions.",
            )
        )
    mean, covariance = _mean_and_covariance(source, normalize)
    variances, vectors = eigenvectors(covariance)
    variances, components = variances[::-1][:num_components], vectors[:, ::-1].T[:num_components]
    largest = components[np.arange(num_components), np.abs(components).argmax(axis=1)]
    components = components * np.where(largest < 0, -1.0, 1.0)[:, None]
    total = float(np.trace(covariance))
    logger.info(
        "PCA keeps %d of %d dimensions and %.1f %% of the variance.",
        num_components,
        source.dim,
        100 * float(variances.sum()) / total if total > 0 else 100,
    )
    if whiten:
        components = _whitened(components, variances)
    return Preprocessing(normalize, mean.astype(np.float32), rounded_components(components), unit_output)


def _whitened(components: np.ndarray, variances: np.ndarray) -> np.ndarray:
    useful = variances > _MIN_VARIANCE_SHARE * max(float(variances[0]), 0.0)
    if not useful.all():
        logger.warning(
            "%d of %d principal components have no variance; whitening sets them to 0.",
            (~useful).sum(),
            len(useful),
        )
    return components * np.where(useful, 1 / np.sqrt(np.where(useful, variances, 1)), 0.0)[:, None]


def _mean_and_covariance(source: VectorSource, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """(D,) and the upper triangle of (D, D), float64."""
    total = np.zeros(source.dim)
    squares = np.zeros((source.dim, source.dim))
    shift: np.ndarray | None = None
    for _, rows in source.chunks():
        rows_nD = (unit_rows(rows) if normalize else rows).astype(np.float64)
        # Sums about a point near the mean keep the digits that a large common offset would cost.
        shift = rows_nD.mean(axis=0) if shift is None else shift
        rows_nD -= shift
        total += rows_nD.sum(axis=0)
        add_products(squares, rows_nD)
    assert shift is not None, "a projection is fitted on at least one feature"
    offset = total / source.num_vectors
    covariance = squares - source.num_vectors * np.outer(offset, offset)
    return shift + offset, covariance / max(source.num_vectors - 1, 1)
