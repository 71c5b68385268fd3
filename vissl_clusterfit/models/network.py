"""A network by name: its module, its transforms, its layers, and the function from images to features."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.config.network_names import LIBRARY_WEIGHTS
from vissl_clusterfit.errors import ClusterFitError, ConfigError, TeacherError, problem
from vissl_clusterfit.models.image_transforms import build_transform
from vissl_clusterfit.models.source import ModelSource, source_of
from vissl_clusterfit.models.weight_files import WeightsSettings, load_state_dict, some
from vissl_clusterfit.models.weights import load_weights, more_blocks

logger = logging.getLogger(__name__)

#: What the settings are called in Python.
OF_PYTHON = WeightsSettings(
    weights="weights", key="key", prefix="prefix", trust="trust=True", model="name", layer="layer", pooling="pooling"
)
#: How maps and tokens become vectors. Those of TOKEN_POOLINGS take tokens alone.
TOKEN_POOLINGS = ("class_token", "patch_mean")
POOLINGS = ("avg", "max", "flatten", *TOKEN_POOLINGS)
_FEW = 8


class Network:
    """A network of another library, by its name.

    Attributes:
        name: as it was given.
        module: the ``nn.Module``, without a classifier.
        layers: the names of all of its submodules.
        settings: what messages call the settings.
    """

    def __init__(
        self,
        name: str,
        source: ModelSource,
        module: nn.Module,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        settings: WeightsSettings = OF_PYTHON,
    ) -> None:
        self.name = name
        self.module = module
        self.settings = settings
        self._source = source
        self._given = transforms

    @functools.cached_property
    def transforms(self) -> list[dict[str, Any]]:
        """From a picture to the network's input, in the form of a config's TRANSFORMS: the library's, or those given.

        Raises:
            ConfigError: the library has none for it.
        """
        return self._source.transforms() if self._given is None else [dict(step) for step in self._given]

    @functools.cached_property
    def transform(self) -> Callable[[Any], torch.Tensor]:
        """The transforms as a function from a picture (PIL, RGB) to a tensor (3, H, W), float32."""
        return build_transform(self.transforms)

    @property
    def layers(self) -> list[str]:
        """The names of all submodules, which :meth:`encoder` takes as ``layer``."""
        return [name for name, _ in self.module.named_modules() if name]

    @property
    def classifier(self) -> str:
        """What the library calls the linear layer that it classifies with, which the module lacks; "" for none."""
        return self._source.classifier(self.module)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images that the network was built for; 224 where any will do."""
        places = ("patch_embed.img_size", "image_size", "config.image_size", "img_size")
        found = [_reach(self.module, place) for place in places]
        size: Any = next((each for each in found if isinstance(each, (int, tuple, list))), 224)
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def identity(self) -> dict[str, Any]:
        """What decides the architecture, for manifests."""
        return self._source.identity()

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """What the library itself gives for images (B, 3, H, W): features (B, D)."""
        return self._source.pooled(self.module, images)

    def outputs(self, images: torch.Tensor, layers: Sequence[str]) -> list[torch.Tensor]:
        """What the named submodules give in one pass.

        Args:
            images: (B, 3, H, W).
            layers: names of submodules, or "" for the pooled features.

        Returns:
            Of each layer features (B, D), tokens (B, N, C) or maps (B, C, H, W), channels first.

        Raises:
            TeacherError: there is no such layer, or it gave no tensor.
        """
        found: dict[str, Any] = {}
        self.require_layers(layers)

        def keep(name: str) -> Callable[..., None]:
            return lambda _, __, output: found.__setitem__(name, output)

        hooks = [self.module.get_submodule(name).register_forward_hook(keep(name)) for name in {*layers} - {""}]
        try:
            found[""] = self.pooled(images)
        finally:
            for hook in hooks:
                hook.remove()
        return [self._tensor(name, found.get(name)) for name in layers]

    def require_layers(self, layers: Sequence[str]) -> None:
        """Refuses a layer that is not there.

        Raises:
            TeacherError: with the nearest names.
        """
        known = self.layers
        for layer in layers:
            if layer and layer not in known:
                shown = ", ".join(name for name in known if "." not in name)
                raise TeacherError(
                    problem(
                        self.settings.layer,
                        found=f"{layer!r}, which {self.name} does not have",
                        allowed=f'"" for its own features, or a submodule: {shown}, and those inside',
                        remedy=proposal(nearest(layer, known)),
                    )
                )

    def _tensor(self, layer: str, output: Any) -> torch.Tensor:
        if hasattr(output, "last_hidden_state"):
            output = output.last_hidden_state
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor) or not 2 <= output.ndim <= 4:
            kind = "nothing" if output is None else type(output).__name__
            shape = f" of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else ""
            allowed = "a layer that gives features, tokens or maps of each image"
            raise TeacherError(
                problem(self.settings.layer, found=f"{layer!r}, which gave {kind}{shape}", allowed=allowed)
            )
        # Swin and its relatives have their channels last; sides of maps are equal, and channels another number.
        if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
            output = output.permute(0, 3, 1, 2)
        return output

    def encoder(
        self, layer: str = "", pooling: str = "", device: str | torch.device = "cpu", compute: Compute = PLAIN
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function from images to features; the network is moved to ``device`` and put into evaluation.

        Args:
            layer: a submodule; "" for what the library itself gives.
            pooling: how tokens or maps become a vector: ``avg`` (also ""), ``max``, ``flatten``, ``class_token``, or
                ``patch_mean``, the mean of the tokens of patches. The library's own features are vectors already: with
                "" as the layer only the last two have an effect, and take its last tokens.
            device: on which it computes.
            compute: how; in lower precision the network is changed, and can compute nothing else from then on.

        Returns:
            A function from images (B, 3, H, W) float32 to features (B, D) float32.

        Raises:
            TeacherError: there is no such layer, or no tokens where the pooling takes tokens.
            ConfigError: there is no such pooling.
        """
        if pooling and pooling not in POOLINGS:
            raise ConfigError(
                problem(self.settings.pooling, found=repr(pooling), allowed=" | ".join(map(repr, POOLINGS)))
            )
        self.require_layers([layer])
        module = self.module.to(device).eval().requires_grad_(False)

        def encode(images: torch.Tensor) -> torch.Tensor:
            module.eval()
            if not layer and pooling in TOKEN_POOLINGS:
                output = self._source.tokens(module, images)
            else:
                (output,) = self.outputs(images, [layer])
            # Means are those of float32, whatever the network computes in.
            return self._as_vectors(None if output is None else output.float(), layer, pooling or "avg")

        return torch.no_grad()(prepared(encode, module, torch.device(device), compute))

    def _as_vectors(self, output: torch.Tensor | None, layer: str, pooling: str) -> torch.Tensor:
        prefix = self._source.num_prefix_tokens(self.module)
        if pooling in TOKEN_POOLINGS:
            lacks_class = pooling == "class_token" and not prefix
            if output is None or output.ndim != 3 or lacks_class:
                what = "class token" if lacks_class else "tokens"
                raise TeacherError(
                    problem(
                        self.settings.pooling,
                        found=f"{pooling!r}, and {f'the layer {layer} of ' if layer else ''}{self.name} has no {what}",
                        allowed="'avg', 'max' or 'flatten' for it",
                    )
                )
            return output[:, 0] if pooling == "class_token" else output[:, prefix:].mean(dim=1)
        assert output is not None
        if output.ndim == 2:
            return output
        positions = output.transpose(1, 2) if output.ndim == 3 else output.flatten(2)
        if pooling == "flatten":
            return positions.flatten(1)
        return positions.mean(dim=2) if pooling == "avg" else positions.amax(dim=2)


def _reach(found: Any, place: str) -> Any:
    for part in place.split("."):
        found = getattr(found, part, None)
    return found


def load(
    name: str,
    weights: str = "",
    *,
    arguments: Mapping[str, Any] | None = None,
    transforms: Sequence[Mapping[str, Any]] | None = None,
    key: str = "",
    prefix: str = "",
    trust: bool = False,
    config: Mapping[str, Any] | None = None,
    settings: WeightsSettings = OF_PYTHON,
) -> Network:
    """Builds a network by name and gives it its weights.

    Args:
        name: ``torchvision:<model>``, ``timm:<model>``, ``transformers:<folder or name>``,
            ``hub:<local repository>[:<entry>]`` or ``python:<module>:<function>``.
        weights: a file (``.pth``, ``.pt``, ``.safetensors``, a checkpoint of VISSL's); "library" for what the library
            itself brings; "" for a random start.
        arguments: of the constructor, such as ``{"img_size": 64}``.
        transforms: instead of the library's own.
        key: where the state dict is in the file; everything is looked at when it is empty.
        prefix: with which the names of the network begin, where the file has several.
        trust: whether the file, or the repository of ``hub:``, may run code.
        config: of a model of transformers, as a manifest has it, instead of that in its folder.
        settings: what messages call the settings.

    Raises:
        ConfigError: the name is unknown, or its constructor refuses the arguments.
        MissingDependencyError: its library is not installed.
        TeacherError: the weights are missing, run code, or are those of another network.

    Examples:
        >>> import torch
        >>> from vissl_clusterfit.models import load
        >>> network = load("torchvision:mobilenet_v3_small")
        >>> [step["name"] for step in network.transforms]
        ['Resize', 'CenterCrop', 'ToTensor', 'Normalize']
        >>> network.encoder()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1024])
    """
    request = {
        "arguments": dict(arguments or {}),
        "config": config,
        "weights": weights,
        "trust_code": trust,
        "setting": settings.model,
        "trust": settings.trust,
    }
    source = source_of(name, request)
    try:
        module = source.build()
    except ClusterFitError:
        raise
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or "an assertion").splitlines()[0]
        found = f"{name} with the arguments {dict(arguments or {})}: {type(error).__name__}: {reason}"
        raise ConfigError(problem(settings.model, found=found, allowed="what its constructor takes")) from None
    network = Network(name, source, module, transforms, settings)
    if weights and weights != LIBRARY_WEIGHTS:
        state = load_state_dict(weights, key=key, prefix=prefix, trusted=trust, settings=settings)
        fill(network, state, weights)
    return network


def fill(network: Network, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Gives a network the tensors of a file, all that it has or none.

    Raises:
        TeacherError: they are those of another network: how many fit, and the first that do not.
    """
    try:
        prefix = load_weights(network.module, state, "network", path, network.settings)
    except TeacherError:
        if not network._source.fill(network.module, state):
            raise
        return
    # Who changes a constructor's arguments, or writes the network, may want the first blocks of a deeper one.
    as_published = network.name.startswith(("torchvision:", "timm:")) and not network.identity()["ARGUMENTS"]
    if as_published and (more := more_blocks(network.module, state, prefix)):
        raise TeacherError(
            f"{path} is of a deeper network than {network.name}: all of its tensors fit, and {len(more)} more are of "
            f"blocks that it lacks: {some(more)}. Make {network.settings.model} the network that was trained."
        )
