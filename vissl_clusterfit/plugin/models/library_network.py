"""``library_network``: a network of another library as a trunk of VISSL's, by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.config.network_names import TRUNK_BLOCK, TRUNK_NAME
from vissl_clusterfit.dependencies import IMPORT_VARIABLE, user_modules
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.models import describe, load
from vissl_clusterfit.models.weight_files import WeightsSettings

_OF_THE_TRUNK = WeightsSettings(
    model="config.MODEL.TRUNK.NAME",
    layer="config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP",
    trust=f"the environment variable {TRUST_VARIABLE}=1",
)
_WEIGHTS, _TRUSTED = "_WEIGHTS", "_TRUSTED"


class LibraryNetwork(nn.Module):
    """A trunk of VISSL's whose settings are ``MODEL.TRUNK.LIBRARY_NETWORK``.

    Config params:
        MODEL: the name, such as ``timm:resnet18``.
        ARGUMENTS: of its constructor; optional.
        CONFIG: of a model of transformers, as ``config.json`` has it; optional.

    It starts at random; :func:`for_features` asks for the library's own weights.
    """

    def __init__(self, model_config: AttrDict, model_name: str) -> None:
        super().__init__()
        block = model_config.TRUNK[TRUNK_BLOCK]
        trusted = block.get(_TRUSTED, False) or os.environ.get(TRUST_VARIABLE) == "1"
        weights = block.get(_WEIGHTS, "")
        self.described = load(block["MODEL"], weights, **_given(block), trust=trusted, settings=_OF_THE_TRUNK)
        self.network = self.described.module
        for name, parameter in self.network.named_parameters():
            if name.endswith(
                "mask_token"
            ):  # of masked pre-training: no image of ours uses it, and DDP would wait for it
                parameter.requires_grad_(False)
        self.all_feat_names = self.described.layers
        #: What dry runs use.
        self.input_shape = (3, *self.described.input_size)

    def forward(self, images: torch.Tensor, out_feat_keys: Sequence[str] | None = None) -> list[torch.Tensor]:
        """Features of images (B, 3, H, W), as the library gives them, or what the named submodules give."""
        return self.described.outputs(images, list(out_feat_keys or [""]))


def for_features(trunk: Mapping[str, Any], weights: str, trusted: bool) -> AttrDict:
    """A TRUNK block for a network that is not trained.

    Args:
        trunk: as a config has it.
        weights: "library" for the weights that the library brings, else "".
        trusted: whether the code of a repository on disk may run.
    """
    return AttrDict({**trunk, TRUNK_BLOCK: AttrDict({**trunk[TRUNK_BLOCK], _WEIGHTS: weights, _TRUSTED: trusted})})


def is_library_network(model: Mapping[str, Any]) -> bool:
    """Whether a MODEL block has such a trunk."""
    return model["TRUNK"]["NAME"] == TRUNK_NAME


def require_no_code(trunk: Mapping[str, Any], place: object) -> None:
    """Refuses a trunk that a file names and that is code to import: only you name code.

    Args:
        trunk: a TRUNK block from a record or a manifest.
        place: of the file.

    Raises:
        ConfigError: it is ``python:<module>:<function>``, and nothing says that the module is trusted.
    """
    name = str((trunk.get(TRUNK_BLOCK) or {}).get("MODEL", "")) if trunk.get("NAME") == TRUNK_NAME else ""
    library, _, function = name.partition(":")
    module = function.partition(":")[0]
    if library == "python" and module not in user_modules() and os.environ.get(TRUST_VARIABLE) != "1":
        raise ConfigError(
            problem(
                f"the trunk in {place}",
                found=f"{name}, which runs the code of {module}",
                allowed="a trunk of VISSL's, of torchvision, timm or transformers",
                remedy=f"If you made or trust that module, set the environment variable {IMPORT_VARIABLE}={module}.",
            )
        )


def library_inputs(
    model: Mapping[str, Any], weights: str | None, trusted: bool, settings: WeightsSettings
) -> dict[str, Any]:
    """``trunk`` and ``weights_sha256`` of such a network, for the manifest of features."""
    block = model["TRUNK"][TRUNK_BLOCK]
    found = describe(block["MODEL"], weights or "", **_given(block), trust=trusted, settings=settings)
    return {"trunk": {"NAME": TRUNK_NAME, TRUNK_BLOCK: found["network"]}, "weights_sha256": found["weights_sha256"]}


def _given(block: Mapping[str, Any]) -> dict[str, Any]:
    plain = AttrDict(dict(block)).to_dict()
    return {"arguments": plain.get("ARGUMENTS") or {}, "config": plain.get("CONFIG") or None}
