"""Nearest centroids by faiss, on the CPU or a GPU. The only module that imports faiss."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.search.norms import row_squares

_DEVICES = ("cpu", "cuda", "gpu")  # a GPU is "cuda" to PyTorch and "gpu" to VISSL
# Rows whose differences to their centroids stay in the processor's cache.
_BLOCK_ROWS = 1024
# What centroids have in common costs digits where it is so many times longer than they are without it.
_MUCH_IN_COMMON = 4.0


class FaissSearch:
    """Exact search of the nearest of K centroids by squared L2 distance, in float32.

    faiss decides which centroid is nearest. Its distances come from a matrix product, so between centroids
    that are equally near to within float32 rounding the choice is faiss's. The distance itself is computed
    again from the difference: that costs little, and it is exactly 0 for a vector on its centroid. Where centroids have
    much in common, as those of features with a large offset, faiss is given what is left without it: in a product of
    the whole the offset would take the digits that tell them apart.

    Args:
        centroids: (K, D) float32.
        device: "cpu", or "cuda" (as well "gpu") for the first visible GPU.

    Raises:
        MissingDependencyError, ConfigError: see :func:`require_faiss`.
    """

    def __init__(self, centroids: np.ndarray, device: str = "cpu") -> None:
        require_faiss(device)
        self._centroids_KD = np.ascontiguousarray(centroids, dtype=np.float32)
        faiss = _import_faiss()
        self._shift = _common_shift(self._centroids_KD)
        index = faiss.IndexFlatL2(self._centroids_KD.shape[1])
        index.add(self._centroids_KD if self._shift is None else self._centroids_KD - self._shift)
        if device != "cpu":
            index = faiss.index_cpu_to_gpu(_gpu_resources(), 0, index)
        self._index = index
        self._num_threads = faiss.omp_get_max_threads()

    #: faiss has threads of its own, and blocks.
    num_threads, num_rows = 1, 0
    #: Tensors are copied as arrays are, by faiss.
    card = None

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self._centroids_KD)

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        """The nearest centroids of (n, D) float32, as (n,) int64.

        Raises:
            DataError: a distance overflows float32.
        """
        return self._nearest(rows_nD, 1)[:, 0]

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ``count`` nearest centroids of (n, D) float32, nearest first, and squared distances to them.

        Returns:
            Centroids (n, count) int64 and distances (n, count) float32.

        Raises:
            DataError: a distance is NaN or overflows float32.
        """
        labels = self._nearest(rows_nD, count)
        distances = np.stack([self._distances(rows_nD, column) for column in labels.T], axis=1)
        return labels, distances

    def _nearest(self, rows_nD: np.ndarray, count: int) -> np.ndarray:
        _import_faiss().omp_set_num_threads(self._num_threads)  # it is a setting of each thread
        rows_nD = rows_nD if self._shift is None else rows_nD - self._shift
        scores, labels = self._index.search(np.ascontiguousarray(rows_nD), count)
        # Where no score is less than the one it begins with, faiss gives the label -1, and faiss 1.8 any number.
        if len(labels) and not (labels.min() >= 0 and scores.max() < np.finfo(np.float32).max):
            raise _too_large()
        return labels

    def _distances(self, rows_nD: np.ndarray, labels: np.ndarray) -> np.ndarray:
        distances = np.empty(len(rows_nD), dtype=np.float32)
        for low in range(0, len(rows_nD), _BLOCK_ROWS):
            block = slice(low, low + _BLOCK_ROWS)
            with np.errstate(over="ignore", invalid="ignore"):
                distances[block] = row_squares(rows_nD[block] - self._centroids_KD[labels[block]])
        if len(labels) and not np.isfinite(distances.max()):
            raise _too_large()
        return distances


def _common_shift(centroids_KD: np.ndarray) -> np.ndarray | None:
    """The mean of the centroids, (D,) float32, if it is much longer than what they are without it; else None."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = centroids_KD.mean(axis=0, dtype=np.float64)
        apart = max((float(np.square(part - mean).sum(axis=1).max()) for part in _parts(centroids_KD)), default=0.0)
        common = float(np.square(mean).sum())
    return mean.astype(np.float32) if common > _MUCH_IN_COMMON**2 * apart else None


def _parts(centroids_KD: np.ndarray) -> Iterator[np.ndarray]:
    for low in range(0, len(centroids_KD), _BLOCK_ROWS):
        yield centroids_KD[low : low + _BLOCK_ROWS]


def _too_large() -> DataError:
    return DataError(
        "Features are too large: their squared distances overflow float32. Set "
        "config.CLUSTERFIT.FEATURES.NORMALIZE=true, or scale them down."
    )


def require_faiss(device: str) -> None:
    """Checks that faiss can search on a device.

    Args:
        device: "cpu", "cuda" or "gpu".

    Raises:
        MissingDependencyError: faiss is not installed.
        ConfigError: ``device`` is a GPU, and faiss was built without GPU support or sees none.
    """
    if device not in _DEVICES:
        raise ValueError(f"device must be one of {', '.join(_DEVICES)}, got {device!r}.")
    faiss = _import_faiss()
    if device == "cpu":
        return
    if not hasattr(faiss, "StandardGpuResources"):
        raise _no_gpu(
            "gpu, but the installed faiss has no GPU support",
            "pip uninstall faiss-cpu, then pip install 'vissl-clusterfit[gpu]'",
        )
    if faiss.get_num_gpus() == 0:
        raise _no_gpu("gpu, but faiss sees no GPU", "check the driver and CUDA_VISIBLE_DEVICES")


def _import_faiss() -> ModuleType:
    dependencies.require("faiss")
    import faiss

    return faiss


def _no_gpu(found: str, remedy: str) -> ConfigError:
    remedy = f"Set config.MACHINE.DEVICE=cpu, or {remedy}."
    return ConfigError(problem("config.MACHINE.DEVICE", found=found, allowed="cpu", remedy=remedy))


@functools.lru_cache(maxsize=1)
def _gpu_resources() -> Any:
    # They reserve memory on the card: once per process, not once per iteration.
    return _import_faiss().StandardGpuResources()
