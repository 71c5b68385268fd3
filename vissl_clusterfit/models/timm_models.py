"""``timm:<model>``: the networks of timm as it builds them without a classifier (``num_classes=0``)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.config.network_names import LIBRARY_WEIGHTS
from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ConfigError, TeacherError, problem
from vissl_clusterfit.models.image_transforms import as_number
from vissl_clusterfit.models.source import ModelRequest

logger = logging.getLogger(__name__)


def model_names() -> list[str]:
    """All that timm builds by name."""
    import timm

    return [f"timm:{name}" for name in timm.list_models()]


class TimmModel:
    """One of ``timm.list_models()``, with or without the tag of its weights: ``resnet50`` or ``resnet50.a1_in1k``."""

    def __init__(self, request: ModelRequest) -> None:
        require("timm")
        import timm

        self._request = request
        architecture, _, tag = request.model.partition(".")
        known = timm.list_models()
        if architecture in known:
            known = timm.list_pretrained(f"{architecture}.*")
        if request.model in (architecture, *known) and (tag or timm.is_model(architecture)):
            return
        near = proposal(f"timm:{name}" for name in nearest(request.model, known))
        raise ConfigError(
            problem(
                request.setting,
                found=f"timm:{request.model}, which timm {timm.__version__} does not have",
                allowed="timm:<model>, one of timm.list_models(), or <model>.<tag>, one of timm.list_pretrained()",
                remedy=near,
            )
        )

    #: Constructors of networks that drop no paths do without.
    drop_path_argument = "drop_path_rate"

    def build(self) -> nn.Module:
        """The network with its pooling, and no classifier.

        Raises:
            TeacherError: the library's weights cannot be had.
        """
        import timm

        pretrained = self._request.weights == LIBRARY_WEIGHTS
        arguments = {"num_classes": 0, **self._request.arguments}
        try:
            return timm.create_model(self._request.model, pretrained=pretrained, **arguments)
        except Exception as error:
            if not pretrained:
                raise
            raise TeacherError(
                problem(
                    "weights",
                    found=f"library, and timm cannot load those of {self._request.model}: {_reason(error)}",
                    allowed="library where timm can reach its weights, or a file",
                )
            ) from None

    def fill(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
        """What timm takes for this network: names of the authors' own files, positions for images of another size."""
        convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return False
        own = module.state_dict()
        try:
            converted = convert(dict(state), module)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # of another network
            return False
        if not all(name in converted and converted[name].shape == own[name].shape for name in own):
            return False
        module.load_state_dict({name: converted[name] for name in own})
        logger.info("timm has converted the tensors for timm:%s.", self._request.model)
        return True

    def pooled(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """What the network gives."""
        return module(images)

    def tokens(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
        """What ``forward_features`` gives, of networks where these are tokens."""
        features = module.forward_features(images)  # type: ignore[operator]
        return features if isinstance(features, torch.Tensor) and features.ndim == 3 else None

    def num_prefix_tokens(self, module: nn.Module) -> int:
        """As timm counts them."""
        return int(getattr(module, "num_prefix_tokens", 0))

    def classifier(self, module: nn.Module) -> str:
        """As timm has it for its weights; "" where it has several."""
        name = (getattr(module, "pretrained_cfg", None) or {}).get("classifier")
        return name if isinstance(name, str) else ""

    def transforms(self) -> list[dict[str, Any]]:
        """Those of timm's evaluation: ``resolve_data_config`` and ``create_transform``.

        Raises:
            ConfigError: they hold one that has no name in torchvision.
        """
        import timm

        config = timm.get_pretrained_cfg(self._request.model)
        size = self._request.arguments.get("img_size")
        resolved = timm.data.resolve_data_config(
            {"img_size": size} if isinstance(size, int) else {}, pretrained_cfg=config.to_dict() if config else {}
        )
        return [self._named(step, resolved) for step in timm.data.create_transform(**resolved).transforms]

    def _named(self, step: Any, resolved: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(step, torchvision.transforms.Resize):
            size = step.size if isinstance(step.size, int) else list(step.size)
            return {"name": "Resize", "size": size, "interpolation": as_number(step.interpolation)}
        if isinstance(step, torchvision.transforms.CenterCrop):
            height, width = step.size
            return {"name": "CenterCrop", "size": height if height == width else [height, width]}
        if isinstance(step, torchvision.transforms.Normalize):
            return {"name": "Normalize", "mean": list(resolved["mean"]), "std": list(resolved["std"])}
        if type(step).__name__ in ("ToTensor", "MaybeToTensor"):
            return {"name": "ToTensor"}
        raise ConfigError(
            problem(
                "transforms",
                found=f"timm's {type(step).__name__} among those of timm:{self._request.model}",
                allowed="Resize, CenterCrop, ToTensor and Normalize",
                remedy="Give the transforms of this network yourself.",
            )
        )

    def identity(self) -> dict[str, Any]:
        """The architecture without the tag of its weights, and the arguments."""
        name = self._request.model.partition(".")[0]
        return {"MODEL": f"timm:{name}", "ARGUMENTS": dict(self._request.arguments)}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
