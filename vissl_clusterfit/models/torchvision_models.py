"""``torchvision:<model>``: the classification networks of torchvision, without their last linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.transforms import InterpolationMode

from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.config.network_names import LIBRARY_WEIGHTS
from vissl_clusterfit.errors import ConfigError, TeacherError, problem
from vissl_clusterfit.models.image_transforms import as_number
from vissl_clusterfit.models.source import ModelRequest


def model_names() -> list[str]:
    """All networks for images that torchvision builds by name."""
    return [f"torchvision:{name}" for name in torchvision.models.list_models(torchvision.models)]


class TorchvisionModel:
    """One of ``torchvision.models.list_models(torchvision.models)``."""

    def __init__(self, request: ModelRequest) -> None:
        self._request = request
        known = torchvision.models.list_models(torchvision.models)
        if request.model not in known:
            near = proposal(f"torchvision:{name}" for name in nearest(request.model, known))
            raise ConfigError(
                problem(
                    request.setting,
                    found=f"torchvision:{request.model}, which torchvision {torchvision.__version__} does not have",
                    allowed="torchvision:<model>, one of torchvision.models.list_models(torchvision.models)",
                    remedy=near,
                )
            )

    def _weights(self) -> Any:
        """The weights whose transforms are taken: by the name of the file, else those that torchvision prefers."""
        known = torchvision.models.get_model_weights(self._request.model)
        file = PurePosixPath(self._request.weights.replace("\\", "/")).name
        return next((each for each in known if PurePosixPath(each.url).name == file), known.DEFAULT)

    @property
    def drop_path_argument(self) -> str:
        """Torchvision's word for it; its vision transformers have none."""
        families = ("convnext", "efficientnet", "maxvit", "swin")
        return "stochastic_depth_prob" if self._request.model.startswith(families) else ""

    def build(self) -> nn.Module:
        """The network up to the input of its last linear layer.

        Raises:
            TeacherError: the library's weights cannot be had.
        """
        weights = self._weights() if self._request.weights == LIBRARY_WEIGHTS else None
        arguments = dict(self._request.arguments)
        if self._request.model in ("googlenet", "inception_v3"):
            # Their second classifiers serve training only.
            arguments = {"aux_logits": weights is not None, "init_weights": weights is None, **arguments}
        try:
            module = torchvision.models.get_model(self._request.model, weights=weights, **arguments)
        except OSError as error:
            raise TeacherError(
                problem(
                    "weights",
                    found=f"library, and torchvision cannot load those of {self._request.model}: {error}",
                    allowed="library where torchvision can reach its weights, or a file",
                )
            ) from None
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(module, name):
                setattr(module, name, None)
        return _without_classifier(module)

    def fill(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
        """Names are the module's own."""
        return False

    def pooled(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """The input of the last linear layer."""
        return module(images)

    def tokens(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
        """Those of a vision transformer, normalised."""
        if not isinstance(module, VisionTransformer):
            return None
        found: list[torch.Tensor] = []
        with module.encoder.register_forward_hook(lambda _, __, output: found.append(output)):
            module(images)
        return found[0]

    def num_prefix_tokens(self, module: nn.Module) -> int:
        """The class token of a vision transformer."""
        return int(isinstance(module, VisionTransformer))

    def classifier(self, module: nn.Module) -> str:
        """What an identity stands for."""
        name = [name for name, layer in module.named_modules() if isinstance(layer, nn.Identity)][-1:]
        return "".join(name)

    def transforms(self) -> list[dict[str, Any]]:
        """Those in the meta data of the weights."""
        preset = self._weights().transforms()
        resize, crop = list(preset.resize_size), list(preset.crop_size)
        if size := self._request.arguments.get("image_size"):
            resize, crop = [round(each * size / crop[0]) for each in resize], [size]
        resizing = {"name": "Resize", "size": resize[0] if len(resize) == 1 else resize}
        if preset.interpolation != InterpolationMode.BILINEAR:
            resizing["interpolation"] = as_number(preset.interpolation)
        return [
            resizing,
            {"name": "CenterCrop", "size": crop[0] if len(crop) == 1 else crop},
            {"name": "ToTensor"},
            {"name": "Normalize", "mean": list(preset.mean), "std": list(preset.std)},
        ]

    def identity(self) -> dict[str, Any]:
        """The name and the arguments."""
        return {"MODEL": f"torchvision:{self._request.model}", "ARGUMENTS": dict(self._request.arguments)}


def _without_classifier(module: nn.Module) -> nn.Module:
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if linear and not linear[-1].startswith("features"):
        module.set_submodule(linear[-1], nn.Identity())
    else:  # SqueezeNet classifies by a convolution
        module.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return module
