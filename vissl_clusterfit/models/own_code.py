"""``hub:<local repository>[:<entry>]`` and ``python:<module>:<function>``: networks that one's own code builds."""

from __future__ import annotations

import ast
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.models.source import ModelRequest, imagenet_transforms


class OwnModel(ABC):
    """What a function of the user's returns: an ``nn.Module`` from images (B, 3, H, W) to features (B, D)."""

    def __init__(self, request: ModelRequest) -> None:
        self._request = request

    #: Give it among the arguments.
    drop_path_argument = ""

    @abstractmethod
    def _make(self) -> Any:
        """What the user's function returns."""

    def build(self) -> nn.Module:
        """What the function returns.

        Raises:
            ConfigError: it is no ``nn.Module``.
        """
        module = self._make()
        if not isinstance(module, nn.Module):
            allowed = "a function that returns an nn.Module"
            raise ConfigError(problem(self._request.setting, found=f"a {type(module).__name__}", allowed=allowed))
        return module

    def fill(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
        """Names are the module's own."""
        return False

    def pooled(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """What the network gives; a map, (B, C, H, W), is averaged."""
        output = module(images)
        return output.flatten(2).mean(2) if output.ndim > 2 else output

    def tokens(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
        """Unknown: a named layer gives them."""
        return None

    def num_prefix_tokens(self, module: nn.Module) -> int:
        """What the network says, in the word of timm or of DINOv2; a class token where it has one."""
        registers = int(getattr(module, "num_register_tokens", 0))
        return int(getattr(module, "num_prefix_tokens", registers + hasattr(module, "cls_token")))

    def classifier(self, module: nn.Module) -> str:
        """Unknown."""
        return ""

    def transforms(self) -> list[dict[str, Any]]:
        """Nothing is known of them: those of most networks."""
        return imagenet_transforms()


class HubModel(OwnModel):
    """An entry of the ``hubconf.py`` of a repository on this machine. It runs code of that folder."""

    def __init__(self, request: ModelRequest) -> None:
        super().__init__(request)
        folder, _, entry = request.model.rpartition(":")
        self._folder, self._entry = (folder, entry) if folder and Path(folder).is_dir() else (request.model, "")
        allowed = "hub:<folder with a hubconf.py>[:<entry>]"
        if not Path(self._folder, "hubconf.py").is_file():
            found = f"{self._folder}, which has no hubconf.py"
            raise ConfigError(problem(request.setting, found=found, allowed=allowed))
        if not request.trust_code:
            raise ConfigError(
                problem(
                    request.setting,
                    found=f"hub:{request.model}, whose building runs the code of {self._folder}",
                    allowed="a repository that you made or trust",
                    remedy=f"If you do, set {request.trust}.",
                )
            )

    def _make(self) -> Any:
        entries = _entries(Path(self._folder, "hubconf.py"))
        entry = self._entry or (entries[0] if len(entries) == 1 else "")
        if entry not in entries:
            raise ConfigError(
                problem(
                    self._request.setting,
                    found=f"the entry {entry!r} of {self._folder}",
                    allowed=", ".join(entries) or "an entry, and its hubconf.py has none",
                    remedy=proposal(f"hub:{self._folder}:{name}" for name in nearest(entry, entries)),
                )
            )
        return torch.hub.load(self._folder, entry, source="local", **self._request.arguments)

    def identity(self) -> dict[str, Any]:
        """The folder as it is named, and the arguments: its code is not looked into."""
        return {"MODEL": f"hub:{self._request.model}", "ARGUMENTS": dict(self._request.arguments)}


def _entries(file: Path) -> list[str]:
    """What a ``hubconf.py`` defines or imports, without running it."""
    names: list[str] = []
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_")]


class PythonModel(OwnModel):
    """A function of a module on Python's search path."""

    def __init__(self, request: ModelRequest) -> None:
        super().__init__(request)
        module, _, function = request.model.partition(":")
        allowed = "python:<module>:<function>, a function that returns an nn.Module"
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                problem(
                    request.setting,
                    found=f"python:{request.model}, and {module} cannot be imported ({error})",
                    allowed=allowed,
                    remedy="Put its folder into PYTHONPATH.",
                )
            ) from None
        self._function: Any = getattr(found, function, None)
        if not callable(self._function):
            functions = [
                name for name, value in vars(found).items() if inspect.isroutine(value) or inspect.isclass(value)
            ]
            near = proposal(f"python:{module}:{name}" for name in nearest(function, functions))
            what = f"python:{request.model}, and {module} has no function {function!r}"
            raise ConfigError(problem(request.setting, found=what, allowed=allowed, remedy=near))

    def _make(self) -> Any:
        return self._function(**self._request.arguments)

    def identity(self) -> dict[str, Any]:
        """The name and the arguments: the function's code is not looked into."""
        return {"MODEL": f"python:{self._request.model}", "ARGUMENTS": dict(self._request.arguments)}
