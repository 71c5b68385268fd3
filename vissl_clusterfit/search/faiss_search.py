"""Nearest centroids by faiss, on the CPU or a GPU. The only module that imports faiss."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import ConfigError, DataError, problem

_DEVICES = ("cpu", "cuda", "gpu")  # a GPU is "cuda" to PyTorch and "gpu" to VISSL
# Rows whose differences to their centroids stay in the processor's cache.
_BLOCK_ROWS = 1024


class FaissSearch:
    """Exact search of the nearest of K centroids by squared L2 distance, in float32.

    faiss decides which centroid is nearest. Its distances come from a matrix product, so between centroids
    that are equally near to within float32 rounding the choice is faiss's. The distance itself is computed
    again from the difference: that costs little, and it is exactly 0 for a vector on its centroid.

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
        index = faiss.IndexFlatL2(self._centroids_KD.shape[1])
        index.add(self._centroids_KD)
        if device != "cpu":
            index = faiss.index_cpu_to_gpu(_gpu_resources(), 0, index)
        self._index = index
        self._num_threads = faiss.omp_get_max_threads()

    #: faiss has threads of its own.
    at_once = 1

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
        labels = self._index.search(np.ascontiguousarray(rows_nD), count)[1]
        if len(labels) and labels.min() < 0:
            raise _too_large()
        return labels

    def _distances(self, rows_nD: np.ndarray, labels: np.ndarray) -> np.ndarray:
        distances = np.empty(len(rows_nD), dtype=np.float32)
        for low in range(0, len(rows_nD), _BLOCK_ROWS):
            block = slice(low, low + _BLOCK_ROWS)
            with np.errstate(over="ignore", invalid="ignore"):
                difference = rows_nD[block] - self._centroids_KD[labels[block]]
                np.einsum("nd,nd->n", difference, difference, out=distances[block])
        if len(labels) and not np.isfinite(distances.max()):
            raise _too_large()
        return distances


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
