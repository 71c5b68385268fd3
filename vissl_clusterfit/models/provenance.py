"""What a network by name is, for manifests: its architecture, its weights by their hash, its transforms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from vissl_clusterfit.config.network_names import LIBRARY_WEIGHTS
from vissl_clusterfit.models.network import OF_PYTHON, load
from vissl_clusterfit.models.source import source_of
from vissl_clusterfit.models.weight_files import WeightsSettings
from vissl_clusterfit.storage.artifacts import file_sha256
from vissl_clusterfit.storage.paths import artifact_path


def describe(
    name: str,
    weights: str = "",
    *,
    arguments: Mapping[str, Any] | None = None,
    trust: bool = False,
    config: Mapping[str, Any] | None = None,
    settings: WeightsSettings = OF_PYTHON,
) -> dict[str, Any]:
    """What decides the features of a network, besides layer, pooling and transforms.

    Args:
        name, weights, arguments, trust, config, settings: as in :func:`.network.load`.

    Returns:
        ``network``: the architecture, equal wherever a folder lies; ``weights_sha256``: of the file, or of the tensors
        where the library brings them from several files or its hub; "random" without weights.

    Examples:
        >>> from vissl_clusterfit.models import describe
        >>> describe("torchvision:resnet18")
        {'network': {'MODEL': 'torchvision:resnet18', 'ARGUMENTS': {}}, 'weights_sha256': 'random'}
    """
    given = {"arguments": dict(arguments or {}), "trust_code": trust, "config": config}
    source = source_of(name, {**given, "setting": settings.model, "trust": settings.trust})
    return {"network": source.identity(), "weights_sha256": _hash(name, weights, given, source, settings)}


def _hash(name: str, weights: str, given: Mapping[str, Any], source: Any, settings: WeightsSettings) -> str:
    if not weights:
        return "random"
    file = artifact_path(weights) if weights != LIBRARY_WEIGHTS else getattr(source, "weights_file", lambda: None)()
    if file is not None:
        return file_sha256(file)
    return _of_library(name, repr(given), lambda: load(name, weights, **_as_given(given), settings=settings).module)


def _as_given(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"arguments": given["arguments"], "trust": given["trust_code"], "config": given["config"]}


_KNOWN: dict[tuple[str, str], str] = {}


def _of_library(name: str, given: str, build: Any) -> str:
    """The hash of a library's own tensors, once per process: they do not change below it."""
    if (name, given) not in _KNOWN:
        _KNOWN[name, given] = tensors_sha256(build().state_dict())
    return _KNOWN[name, given]


def tensors_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of tensors: names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for tensor_name in sorted(state):
        tensor = state[tensor_name].detach().cpu().contiguous()
        found.update(f"{tensor_name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"tensors {found.hexdigest()}"
