"""What each library gives for the name of a model: how it is built, run and fed. One small class for each library."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from vissl_clusterfit.config.network_names import split_network_name

#: The class of each library: ``<module>:<class>``, imported when a name asks for it.
_SOURCES = {
    "torchvision": "torchvision_models:TorchvisionModel",
    "timm": "timm_models:TimmModel",
    "transformers": "transformers_models:TransformersModel",
    "hub": "own_code:HubModel",
    "python": "own_code:PythonModel",
}


@dataclass(frozen=True)
class ModelRequest:
    """A name and what goes with it.

    Attributes:
        model: what follows the library in the name.
        arguments: of the constructor.
        config: of a model of transformers that is described instead of lying in a folder; None where it lies in one.
        weights: a file, "library", or "" for a random start.
        trust_code: whether the code of a repository on disk may run.
        setting: what messages call the name.
        trust: what messages call the setting that trusts.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    weights: str = ""
    trust_code: bool = False
    setting: str = "name"
    trust: str = "trust=True"


class ModelSource(Protocol):
    """A model of one library, not yet built; its constructor takes a :class:`ModelRequest`."""

    @property
    def drop_path_argument(self) -> str:
        """What the constructor calls the rate at which paths are dropped in training; "" where it drops none."""

    def build(self) -> nn.Module:
        """The network without a classifier, with a random start, or with the library's weights where they are asked."""

    def fill(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
        """Loads tensors whose names only the library understands; whether all arrived."""

    def pooled(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """What the library itself gives for images: features (B, D)."""

    def tokens(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
        """The last tokens (B, N, C), those that are no patches first; None where there are none."""

    def num_prefix_tokens(self, module: nn.Module) -> int:
        """How many of the tokens are no patches: the class token, registers."""

    def classifier(self, module: nn.Module) -> str:
        """The name of the linear layer that the library classifies with, and that the network lacks; "" for none."""

    def transforms(self) -> list[dict[str, Any]]:
        """From a picture to the network's input, by the library's word for these weights."""

    def identity(self) -> dict[str, Any]:
        """What decides the architecture, whatever it is called and wherever it lies."""


def source_of(name: str, request: dict[str, Any]) -> ModelSource:
    """The source for a name.

    Raises:
        ConfigError: the library or the model is unknown, with the nearest names.
        MissingDependencyError: the library is not installed, with the command.
    """
    library, model = split_network_name(name, request.get("setting", "name"))
    module, _, kind = _SOURCES[library].partition(":")
    return getattr(importlib.import_module(f"vissl_clusterfit.models.{module}"), kind)(ModelRequest(model, **request))


def imagenet_transforms(resize: Any = 256, crop: int = 224) -> list[dict[str, Any]]:
    """What most networks were evaluated with, where nothing else is known of them."""
    return [
        {"name": "Resize", "size": resize},
        {"name": "CenterCrop", "size": crop},
        {"name": "ToTensor"},
        {"name": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    ]
