"""``KMeans``: this package's clustering behind scikit-learn's interface, for arrays in memory or mapped from disk."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data

from vissl_clusterfit.clustering.kmeans import HIERARCHICAL, KMEANS_PLUSPLUS, RANDOM, kmeans
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.protocol import ChunkTask
from vissl_clusterfit.clustering.sources import ArraySource, chunk_rows
from vissl_clusterfit.errors import problem
from vissl_clusterfit.search.backends import TORCH, search_factory

EUCLIDEAN, COSINE = "euclidean", "cosine"
_FLOATS = (np.float64, np.float32)


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means by the engine that makes codebooks: exact assignments, the same centers to the bit for the same seed.

    It runs until no center moves, or for ``max_iter`` iterations, or until ``tol`` stops it. The engine computes in
    float32: differences between samples that float32 does not resolve are lost, so subtract a large common offset
    first. Arrays of float64 are converted a chunk at a time, never copied whole.

    Args:
        n_clusters: K, at most the number of samples.
        init: "k-means++", "random", "hierarchical" (quick), or the first centers, (K, D).
        max_iter: the largest number of iterations.
        metric: "euclidean"; or "cosine", which scales samples and centers to unit norm (spherical k-means).
        growing_sample: early iterations see a sample that grows, later ones an eighth of the samples each (a quarter or
            a half, with few for each cluster), where there are 2,048 samples or more; if false, each one sees all.
        tol: stop when a pass over all samples lowers the objective by no more than this share of it; 0 for never.
        random_state: draws the first centers. A whole number gives what the setting ``SEED`` of a run gives.
        device: "cpu" or "cuda".

    Attributes:
        cluster_centers_: (K, D) float32.
        labels_: (N,) int64, the nearest center of each sample.
        inertia_: the sum of the squared distances of the samples to their centers, from their differences in float64.
            With "cosine", of the scaled samples.
        n_iter_: iterations that were run.
        n_features_in_: D.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import KMeans
        >>> points = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], dtype=np.float32)
        >>> estimator = KMeans(n_clusters=2, random_state=0).fit(points)
        >>> estimator.cluster_centers_[estimator.predict([[9, 1]])]
        array([[10.,  1.]], dtype=float32)
        >>> estimator.inertia_
        4.0
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = KMEANS_PLUSPLUS,
        max_iter: int = 50,
        metric: str = EUCLIDEAN,
        growing_sample: bool = True,
        tol: float = 0.0,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.metric = metric
        self.growing_sample = growing_sample
        self.tol = tol
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> KMeans:
        """Finds the centers.

        Args:
            X: (N, D), an array or a memory map.
            y: not used.
            sample_weight: must be equal for all samples, or None: the engine counts each sample once.

        Raises:
            ValueError: a parameter, or X, is not what it must be; or weights differ.
            MissingDependencyError, ConfigError: "cuda" where PyTorch sees no GPU.
        """
        self._check_parameters()
        rows = _checked(self, X, reset=True)
        _require_equal_weights(sample_weight, rows)
        if len(rows) < self.n_clusters:
            raise ValueError(f"n_samples={len(rows)} must be at least n_clusters={self.n_clusters}.")
        given, start = self._given_centers(rows.shape[1]), self.init
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        source = self._source(rows)
        result = kmeans(
            source,
            self.n_clusters,
            self.max_iter,
            int(seed),
            search_factory(TORCH, self.device),
            spherical=self.metric == COSINE,
            start=KMEANS_PLUSPLUS if given is not None else start,
            growing=self.growing_sample,
            tolerance=self.tol,
            initial_centroids=given,
        )
        self.cluster_centers_ = result.centroids
        self.n_iter_ = len(result.objective)
        self._n_features_out = self.n_clusters
        self.labels_ = self._nearest(source)
        self.inertia_ = self._inertia(rows, self.labels_)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The nearest center of each sample, (N,) int64."""
        check_is_fitted(self)
        return self._nearest(self._source(_checked(self, X)))

    def transform(self, X: Any) -> np.ndarray:
        """The distance of each sample to each center, (N, K) in the type of X; of scaled samples with "cosine"."""
        check_is_fitted(self)
        rows = _checked(self, X)
        distances = np.empty((len(rows), len(self.cluster_centers_)), dtype=rows.dtype)
        for chunk, part in self._chunks(rows):
            distances[chunk] = euclidean_distances(part, self.cluster_centers_)
        return distances

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Minus the sum of the squared distances of the samples to their centers; ``sample_weight`` as in ``fit``."""
        check_is_fitted(self)
        rows = _checked(self, X)
        _require_equal_weights(sample_weight, rows)
        return -self._inertia(rows, self._nearest(self._source(rows)))

    def _check_parameters(self) -> None:
        wrong = []
        for name in ("n_clusters", "max_iter"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                wrong.append(problem(name, found=repr(value), allowed="a whole number, 1 or more"))
        if not isinstance(self.tol, Real) or isinstance(self.tol, bool) or not 0 <= self.tol <= 1:
            wrong.append(problem("tol", found=repr(self.tol), allowed="0 to 1"))
        choices: dict[str, tuple[str, ...]] = {"metric": (EUCLIDEAN, COSINE), "device": ("cpu", "cuda")}
        if isinstance(self.init, str):
            choices["init"] = (KMEANS_PLUSPLUS, RANDOM, HIERARCHICAL)
        for name, values in choices.items():
            if getattr(self, name) not in values:
                listed = " | ".join(values) + (" | an array of first centers" if name == "init" else "")
                wrong.append(problem(name, found=repr(getattr(self, name)), allowed=listed))
        if isinstance(self.random_state, Integral) and self.random_state < 0:
            range_ = "a whole number, 0 or more, a RandomState, or None"
            wrong.append(problem("random_state", found=self.random_state, allowed=range_))
        if wrong:
            raise ValueError("\n".join(wrong))

    def _given_centers(self, dim: int) -> np.ndarray | None:
        if isinstance(self.init, str):
            return None
        centers = check_array(self.init, dtype=np.float32, ensure_min_samples=0)
        if centers.shape != (self.n_clusters, dim):
            found, allowed = f"an array of shape {centers.shape}", f"one of shape {(self.n_clusters, dim)}"
            raise ValueError(problem("init", found=found, allowed=allowed))
        return centers

    def _source(self, rows: np.ndarray) -> ArraySource:
        steps = Preprocessing(unit_output=self.metric == COSINE)
        return ArraySource(rows, preprocessing=steps, clusters_at_once=self.n_clusters)

    def _nearest(self, source: ArraySource) -> np.ndarray:
        labels = np.empty(source.num_vectors, dtype=np.int64)
        search = search_factory(TORCH, self.device)(self.cluster_centers_)

        def keep(positions: np.ndarray, _: np.ndarray, found: np.ndarray) -> None:
            labels[positions] = found

        source.over_chunks(ChunkTask(keep, search.labels, search.num_threads, card=search.card))
        return labels

    def _inertia(self, rows: np.ndarray, labels: np.ndarray) -> float:
        total = 0.0
        for chunk, part in self._chunks(rows):
            difference = part.astype(np.float64) - self.cluster_centers_[labels[chunk]]
            total += float(np.einsum("nd,nd->", difference, difference))
        return total

    def _chunks(self, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        size = chunk_rows(rows.shape[1])
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            yield chunk, normalize(rows[chunk]) if self.metric == COSINE else rows[chunk]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _checked(estimator: KMeans, X: Any, *, reset: bool = False) -> np.ndarray:
    """(N, D) float32 or float64, finite in float32, without a copy where X is such an array."""
    rows = validate_data(estimator, X, reset=reset, dtype=_FLOATS, accept_sparse=False)
    largest = np.finfo(np.float32).max
    if rows.dtype != np.float32 and (rows.max() > largest or rows.min() < -largest):
        raise ValueError(f"X holds values beyond {largest:.3g}, which float32 does not have. Scale it first.")
    return rows


def _require_equal_weights(sample_weight: Any, rows: np.ndarray) -> None:
    weights = _check_sample_weight(sample_weight, rows)
    if len(weights) and (weights != weights[0]).any():
        raise ValueError(
            problem(
                "sample_weight",
                found=f"weights from {weights.min():g} to {weights.max():g}",
                allowed="None, or the same weight for all samples",
                remedy="This engine counts each sample once: repeat samples, or use sklearn.cluster.KMeans.",
            )
        )
