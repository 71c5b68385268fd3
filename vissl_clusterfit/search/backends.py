"""``CLUSTER_BACKEND``: what searches the nearest centroids."""

from __future__ import annotations

import functools

import torch

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.search.faiss_search import FaissSearch, require_faiss
from vissl_clusterfit.search.protocol import SearchFactory
from vissl_clusterfit.search.torch_search import TorchSearch

FAISS, TORCH = "faiss", "torch"


def search_factory(backend: str, device: str) -> SearchFactory:
    """What makes a search of given centroids.

    Args:
        backend: "faiss" or "torch".
        device: "cpu" or "cuda".

    Raises:
        MissingDependencyError, ConfigError: see :func:`require_backend`.
    """
    require_backend(backend, device)
    return functools.partial(FaissSearch if backend == FAISS else TorchSearch, device=device)


def require_backend(backend: str, device: str) -> None:
    """Checks that a backend can search on a device.

    Raises:
        MissingDependencyError: faiss is not installed.
        ConfigError: faiss cannot use a GPU, or PyTorch sees none.
    """
    if backend == FAISS:
        require_faiss(device)
    elif device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(problem("config.MACHINE.DEVICE", found="gpu, but PyTorch sees none", allowed="cpu"))
