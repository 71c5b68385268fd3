"""The same network in another library: the call that builds it, and what its tensors are called there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.plugin.models.undrawn import Undrawn

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Call:
    """A name of a library, and what it is called with: one source for what is run and for what a user is told.

    Attributes:
        name: dotted, with its module.
        arguments: by name; None for the name alone.
    """

    name: str
    arguments: Mapping[str, Any] | None = field(default_factory=dict)

    def __str__(self) -> str:
        if self.arguments is None:
            return self.name
        return f"{self.name}({', '.join(f'{key}={self._text(value)}' for key, value in self.arguments.items())})"

    @staticmethod
    def _text(value: Any) -> str:
        return str(value) if isinstance(value, Call) else repr(value)

    def __call__(self) -> Any:
        """What the name stands for, called."""
        parts = self.name.split(".")
        found: Any = importlib.import_module(parts[0])
        for part in parts[1:]:
            found = getattr(found, part)
        if self.arguments is None:
            return found
        return found(**{key: value() if isinstance(value, Call) else value for key, value in self.arguments.items()})


@dataclass(frozen=True)
class Counterpart:
    """A trunk as another library has it.

    Attributes:
        library: torchvision, timm or transformers.
        call: that builds the network.
        rename: the tensors of VISSL's trunk under the library's names, and as it counts them.
        linear: the name of the library's linear head; "" where it has none.
        headless: the argument that leaves the head away, None where it is to be replaced by an identity.
        output: the attribute of what the network gives in which the features are, or the first of whose tokens they
            are (``last_hidden_state[:, 0]``); "" where it gives them.
        checked_on: the shape of an input that shows whether outputs are the same, where that of the training is large.
    """

    library: str
    call: Call
    rename: Callable[[State], State]
    linear: str = "fc"
    headless: str | None = None
    output: str = ""
    checked_on: tuple[int, ...] | None = None

    def build_call(self, num_classes: int) -> Call:
        """The call, with a head of so many outputs, or without one (0)."""
        if not self.linear or (self.headless is None and not num_classes):
            return self.call
        return Call(self.call.name, {**(self.call.arguments or {}), "num_classes": num_classes})

    def build(self, num_classes: int) -> nn.Module:
        """The library's network, whose weights are still to be loaded."""
        with Undrawn():
            network: nn.Module = self.build_call(num_classes)()
        if self.linear and self.headless is None and not num_classes:
            network.set_submodule(self.linear, nn.Identity())
        return network.eval()

    def outputs(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """What the network gives for images: features (B, D), or logits (B, K) with its head."""
        found = network(images)
        name, token, _ = self.output.partition("[:, 0]")
        found = getattr(found, name) if name else found
        return (found[:, 0] if token else found).flatten(1)

    def lines(self, num_classes: int, file: str) -> list[str]:
        """The lines of Python that load it from a file of safetensors."""
        lines = [
            f"import {self.library}, safetensors.torch, torch",
            f"model = {self.build_call(num_classes)}",
        ]
        if self.linear and self.headless is None and not num_classes:
            lines.append(f"model.set_submodule({self.linear!r}, torch.nn.Identity())")
        lines += [f"model.load_state_dict(safetensors.torch.load_file({file!r}), strict=True)", "model.eval()"]
        given = f"model(images).{self.output}.flatten(1)" if self.output else "model(images)"
        return [*lines, f"{'logits' if num_classes else 'features'} = {given}"]
