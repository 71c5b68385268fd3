"""``clusterfit_head``: one linear layer per codebook, as wide as the trunk's output needs and as K says.

``clusterfit_partial_head`` stands for layers whose rows are spread over the processes: the loss has them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from vissl.config import AttrDict
from vissl.models.heads.mlp import MLP
from vissl.models.trunks import MODEL_TRUNKS_REGISTRY, get_model_trunk

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.models.constructors import network_errors


class ClusterFitHead(nn.Module):
    """VISSL's linear ``mlp`` head, once per codebook, on the trunk's output.

    Args:
        model_config: VISSL's MODEL block.
        num_clusters: K, or a list with one K per codebook.
        in_features: width of the trunk's output; found by a dry run of the trunk when it is 0.
    """

    def __init__(self, model_config: AttrDict, num_clusters: int | Sequence[int], in_features: int = 0) -> None:
        super().__init__()
        widths = [num_clusters] if isinstance(num_clusters, int) else list(num_clusters)
        in_features = in_features or trunk_width(model_config)
        self.classifiers = nn.ModuleList(MLP(model_config, dims=[in_features, width]) for width in widths)

    def forward(self, features: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits (B, K) for features (B, D), or maps (B, C, …), all of them; a list with several codebooks."""
        logits = [classifier(features.flatten(1)) for classifier in self.classifiers]
        return logits[0] if len(logits) == 1 else logits


class PartialHead(nn.Module):
    """Passes on the trunk's output; the rows of the clusters are in the loss (``plugin/training/cluster_rows.py``).

    Args:
        model_config: VISSL's MODEL block.
        num_clusters: K, or a list with one K per codebook.
        in_features: width of the trunk's output; found by a dry run of the trunk when it is 0.
        **settings: those of ``CLUSTERFIT.HEAD`` that change the result, for the record of the training.
    """

    def __init__(
        self, model_config: AttrDict, num_clusters: int | Sequence[int], in_features: int = 0, **settings: object
    ) -> None:
        super().__init__()
        self.widths = [num_clusters] if isinstance(num_clusters, int) else list(num_clusters)
        self.in_features = in_features or trunk_width(model_config)
        self.settings = settings

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, D), or maps (B, C, …), as vectors."""
        return features.flatten(1)


#: By all that makes one of VISSL's trunks: its width.
_WIDTHS: dict[str, int] = {}


def trunk_width(model_config: AttrDict) -> int:
    """The features that a trunk gives per image or clip, by running it without data or memory ("meta" tensors).

    One of VISSL's that has the same settings as one before is not run again; others may read files.

    Raises:
        ConfigError: the trunk cannot be built, or not be run so.
    """
    name = model_config.TRUNK.NAME
    its_class = MODEL_TRUNKS_REGISTRY.get(name)
    if its_class is None or not its_class.__module__.startswith("vissl.models."):
        return _width(model_config)
    made_from = repr([its_class, {key: value for key, value in model_config.items() if key != "HEAD"}])
    if made_from not in _WIDTHS:
        _WIDTHS[made_from] = _width(model_config)
    return _WIDTHS[made_from]


def _width(model_config: AttrDict) -> int:
    name = model_config.TRUNK.NAME
    size = model_config.TRUNK.get("VISION_TRANSFORMERS", {}).get("IMAGE_SIZE", 224)
    try:
        with torch.device("meta"), _WithValues(torch.linspace), torch.no_grad():
            trunk = _built(model_config)
            shape = getattr(trunk, "input_shape", getattr(trunk, "clip_shape", (3, size, size)))
            features = trunk(torch.empty(2, *shape), [])[-1]
        return features.flatten(1).shape[1]
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            problem(
                "config.MODEL.HEAD.PARAMS",
                found=f"clusterfit_head without in_features for the trunk {name}, which has no dry run ({error})",
                allowed='["clusterfit_head", {"num_clusters": …, "in_features": width of the trunk\'s output}]',
            )
        ) from None


class _NoDryRun(RuntimeError):
    """A trunk that the CPU builds, and that cannot be built without memory."""


def _built(model_config: AttrDict) -> nn.Module:
    """The trunk on the device of the block; on the CPU, where it cannot be built here, to learn whether it can."""
    name = model_config.TRUNK.NAME
    before = copy.deepcopy(model_config)  # EfficientNet takes out of its config what it reads
    try:
        try:
            return get_model_trunk(name)(model_config, name).eval()
        except (ConfigError, RuntimeError):  # torchvision's RegNets compute their widths
            with _WithValues(torch.arange, torch.tensor):
                return get_model_trunk(name)(copy.deepcopy(before), name).eval()
    except Exception as error:
        with torch.device("cpu"):
            network_errors(lambda model: get_model_trunk(name)(model, name))(before)
        raise _NoDryRun(error) from None


class _WithValues(TorchFunctionMode):
    """What these functions make has values: some trunks read numbers from a tensor as they are built.

    Of VISSL's vision transformers it is how often to drop which block.
    """

    def __init__(self, *functions: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._functions = functions

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in self._functions:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)
