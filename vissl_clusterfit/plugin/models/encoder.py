"""A VISSL network as an encoder from images to feature vectors: a layer of its trunk, or its head's output."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from vissl.config import AttrDict
from vissl.models import build_model
from vissl.models.trunks import MODEL_TRUNKS_REGISTRY

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.features import FeatureSettings, TeacherSettings
from vissl_clusterfit.config.network_names import LIBRARY_WEIGHTS
from vissl_clusterfit.errors import ConfigError, TeacherError, problem
from vissl_clusterfit.models.network import fill
from vissl_clusterfit.models.weight_files import WeightsSettings, load_state_dict
from vissl_clusterfit.models.weights import load_weights, networks_of
from vissl_clusterfit.plugin.models.constructors import network_errors
from vissl_clusterfit.plugin.models.library_network import for_features, is_library_network, library_inputs
from vissl_clusterfit.plugin.models.undrawn import Undrawn
from vissl_clusterfit.storage.artifacts import file_sha256
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)

HEAD_LAYER = "heads"
OF_WEIGHTS_INIT = WeightsSettings(
    weights="config.MODEL.WEIGHTS_INIT.PARAMS_FILE",
    key="config.MODEL.WEIGHTS_INIT.STATE_DICT_KEY_NAME",
    prefix="config.MODEL.WEIGHTS_INIT.REMOVE_PREFIX",
    trust=f"the environment variable {TRUST_VARIABLE}=1",
    model="config.MODEL",
    layer="config.TRANSFER.FEATURES.LAYER_NAME",
    pooling="config.TRANSFER.FEATURES.POOLING",
)
# Where VISSL's own checkpoints and those of its predecessor have the state dict; both are found without a name.
_KEYS_OF_VISSL = ("", "classy_state_dict", "model_state_dict")

_POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "avg": lambda maps: maps.flatten(2).mean(dim=2),
    "max": lambda maps: maps.flatten(2).amax(dim=2),
    "flatten": lambda maps: maps.flatten(1),
}


@dataclass(frozen=True)
class EncoderSpec:
    """Which network, with which weights, and what is taken from it.

    Attributes:
        model: a VISSL MODEL block.
        weights: a checkpoint; None leaves the network at its random start.
        state_dict_key: where the state dict is in the file; "" looks everywhere.
        trust_weights: whether the file may run code when it is opened.
        layer: a layer of the trunk, "heads", or "" for the trunk's own output.
        pooling: how a feature map (C, H, W) becomes a vector: avg, max or flatten.
        seed: of the random start.
        settings: what messages call the settings.
        state_dict_prefix: with which the names of the network begin that is taken of several in the file.
    """

    model: Mapping[str, Any]
    weights: str | None
    state_dict_key: str
    trust_weights: bool
    layer: str
    pooling: str
    seed: int = 0
    settings: WeightsSettings = field(default_factory=WeightsSettings)
    state_dict_prefix: str = ""

    def inputs(self) -> dict[str, Any]:
        """What decides the features, for the manifest of a feature store."""
        model = AttrDict(dict(self.model)).to_dict()
        inputs = {
            "trunk": model["TRUNK"],
            "input_type": model["INPUT_TYPE"],
            "weights_sha256": f"random, seed {self.seed}",
            "layer": self.layer,
            "pooling": self.pooling,
        }
        if is_library_network(model):
            inputs |= library_inputs(model, self.weights, self.trust_weights, self.settings)
        if self.weights and not self.is_of_library:
            inputs["weights_sha256"] = file_sha256(artifact_path(self.weights))
        if network := _chosen_network(self):
            inputs["weights_network"] = network
        return {**inputs, "head": model["HEAD"]["PARAMS"]} if self.layer == HEAD_LAYER else inputs

    @property
    def is_of_library(self) -> bool:
        """Whether the library that builds the network brings its weights, too."""
        return self.weights == LIBRARY_WEIGHTS and is_library_network(self.model)

    def state_dict(self, *, whole_file: bool = False) -> dict[str, torch.Tensor]:
        """The tensors of the weights: of what key and prefix name, or of the whole file.

        Raises:
            TeacherError: as :func:`load_state_dict`.
        """
        assert self.weights
        chosen = {} if whole_file else {"key": self.state_dict_key, "prefix": self.state_dict_prefix}
        return load_state_dict(self.weights, **chosen, trusted=self.trust_weights, settings=self.settings)


def teacher_spec(model: Mapping[str, Any], teacher: TeacherSettings, features: FeatureSettings) -> EncoderSpec:
    """The teacher of a run: ``CLUSTERFIT.TEACHER.MODEL`` laid over ``config.MODEL``, with its weights.

    Raises:
        TeacherError: no weights are given, or the file is missing.
    """
    if not teacher.weights:
        raise TeacherError(
            problem(
                "config.CLUSTERFIT.TEACHER.WEIGHTS",
                found="nothing",
                allowed="the path of a VISSL checkpoint, or of a torchvision or plain state dict",
                remedy="ClusterFit clusters the features of a pre-trained network.",
            )
        )
    spec = dataclasses.replace(untrained_teacher(model, teacher, features), weights=teacher.weights)
    if not spec.is_of_library and not artifact_path(teacher.weights).is_file():
        raise TeacherError(
            problem(
                "config.CLUSTERFIT.TEACHER.WEIGHTS",
                found=f"{teacher.weights}, which does not exist",
                allowed="the path of a VISSL checkpoint, or of a torchvision or plain state dict",
            )
        )
    return spec


def untrained_teacher(model: Mapping[str, Any], teacher: TeacherSettings, features: FeatureSettings) -> EncoderSpec:
    """The network of a run's teacher without its weights, which is enough to know what its features are like."""
    merged = _merged(model, teacher.model)
    if "TRUNK" in teacher.model and is_library_network(merged):
        merged["TRUNK"] = teacher.model["TRUNK"]  # what the student's trunk has besides is no part of it
    return EncoderSpec(
        model=merged,
        weights=None,
        state_dict_key=teacher.state_dict_key,
        trust_weights=teacher.trust_weights,
        state_dict_prefix=teacher.state_dict_prefix,
        layer=features.layer_name,
        pooling=features.pooling,
    )


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


class EncoderBuilder:
    """:func:`build_encoder` for one way to compute after the other; the weights are read once, when they are needed."""

    def __init__(self, spec: EncoderSpec, device: torch.device) -> None:
        self._spec, self._device = spec, device

    @functools.cached_property
    def _network(self) -> nn.Module:
        return load_network(self._spec, self._device)

    def __call__(self, compute: Compute = PLAIN) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from images to features; the networks of two share nothing."""
        return build_encoder(self._spec, self._device, compute, copy.deepcopy(self._network))


def build_encoder(
    spec: EncoderSpec, device: torch.device, compute: Compute = PLAIN, network: nn.Module | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Builds the network, loads its weights and gives the function from images to features, computed as was chosen.

    Args:
        spec: the network, its weights and the layer.
        device: on which it computes.
        compute: how.
        network: what :func:`load_network` gave for these, which is changed; loaded here if None.

    Returns:
        A function from a batch of images (B, C, H, W) to features (B, D) float32, both on ``device``'s side of the
        call: images may be on the CPU.

    Raises:
        TeacherError: the weights do not fit, or the layer does not exist (the message lists those that do).
    """
    network = network or load_network(spec, device)
    if is_library_network(spec.model) and spec.layer != HEAD_LAYER:
        network.trunk.described.settings = spec.settings
        return network.trunk.described.encoder(spec.layer, spec.pooling, device, compute)
    if spec.pooling not in _POOLINGS:
        allowed = " | ".join(_POOLINGS)
        found = f"{spec.pooling!r} for the trunk {spec.model['TRUNK']['NAME']}, which gives no tokens"
        raise TeacherError(problem(spec.settings.pooling, found=found, allowed=allowed))
    _require_layer(network.trunk, spec)

    def encode(images: torch.Tensor) -> torch.Tensor:
        if spec.layer == HEAD_LAYER:
            features = network(images)[-1]
        else:
            features = network.trunk(images, [spec.layer] if spec.layer else [])[-1]
        features = features.float()  # means are those of float32
        return _POOLINGS[spec.pooling](features) if features.ndim > 2 else features

    return prepared(encode, network, device, compute)


def load_network(spec: EncoderSpec, device: torch.device) -> nn.Module:
    """Builds the network for inference, with all of its weights, the head's only where ``spec.layer`` asks for it.

    Raises:
        TeacherError: the weights do not fit.
    """
    network = _build_network(spec)
    if spec.weights and not spec.is_of_library:
        state = spec.state_dict()
        if is_library_network(spec.model):
            fill(network.trunk.described, state, spec.weights)
        else:
            load_weights(network.trunk, state, "trunk", spec.weights, spec.settings)
        if spec.layer == HEAD_LAYER:
            load_weights(network.heads, state, "head", spec.weights, spec.settings)
    return network.eval().requires_grad_(False).to(device)


def _chosen_network(spec: EncoderSpec) -> str:
    """Which network was chosen of several in a file; "" where there is one, whatever it is called."""
    if not spec.weights or spec.is_of_library or not (spec.state_dict_key or spec.state_dict_prefix):
        return ""
    trunk = _build_network(spec).trunk
    trunk = trunk.network if is_library_network(spec.model) else trunk
    if len(networks_of(trunk, spec.state_dict(whole_file=True))) < 2:
        return ""
    chosen = networks_of(trunk, spec.state_dict())  # several ones are refused when they are loaded
    return ".".join(filter(None, [spec.state_dict_key, *chosen[:1]]))


def evaluated_spec(cfg: Mapping[str, Any], layer: str, pooling: str, settings: WeightsSettings) -> EncoderSpec:
    """The network of ``config.MODEL`` with its ``WEIGHTS_INIT``, as VISSL names weights; without, an untrained one.

    Args:
        cfg: VISSL's ``config``.
        layer: a layer of the trunk, "heads", or "" for the trunk's own output.
        pooling: avg, max or flatten.
        settings: what the settings are called, :data:`OF_WEIGHTS_INIT` with the engine's own layer.
    """
    weights = cfg["MODEL"]["WEIGHTS_INIT"]
    key = weights["STATE_DICT_KEY_NAME"]
    return EncoderSpec(
        model=cfg["MODEL"],
        weights=weights["PARAMS_FILE"] or None,
        state_dict_key="" if key in _KEYS_OF_VISSL else key,
        trust_weights=os.environ.get(TRUST_VARIABLE) == "1",
        layer=layer,
        pooling=pooling,
        seed=cfg["SEED_VALUE"],
        settings=settings,
        state_dict_prefix=weights["REMOVE_PREFIX"],
    )


def _build_network(spec: EncoderSpec) -> nn.Module:
    model = AttrDict(copy.deepcopy(AttrDict(dict(spec.model)).to_dict()))
    # The block may come from a linear evaluation, where VISSL wraps the trunk and names its tensors otherwise.
    model.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON = False
    model._MODEL_INIT_SEED = spec.seed
    if is_library_network(model):
        weights = LIBRARY_WEIGHTS if spec.is_of_library else ""
        model.TRUNK = for_features(model.TRUNK, weights, spec.trust_weights)
    if spec.layer != HEAD_LAYER:
        model.HEAD.PARAMS = []
    elif not model.HEAD.PARAMS:
        raise ConfigError(
            problem(
                f"{spec.settings.model}.HEAD.PARAMS",
                found="no head",
                allowed=f'the head that was trained, with {spec.settings.layer}="heads"',
            )
        )
    with torch.random.fork_rng(devices=[]), Undrawn() if _is_loaded_whole(spec) else contextlib.nullcontext():
        torch.manual_seed(spec.seed)
        return network_errors(build_model, spec.settings.model)(model, AttrDict({}))


def _is_loaded_whole(spec: EncoderSpec) -> bool:
    """Whether all that is drawn is in the file of weights; a trunk of the user's may draw something else, too."""
    trunk = MODEL_TRUNKS_REGISTRY.get(spec.model["TRUNK"]["NAME"])
    return bool(spec.weights) and trunk is not None and trunk.__module__.startswith("vissl.models.")


def trunk_layers(trunk: nn.Module) -> list[str]:
    """The names of the layers whose output a VISSL trunk can give; empty where it does not say."""
    for attribute in ("feat_eval_mapping", "all_feat_names", "_feature_blocks"):
        names = getattr(trunk, attribute, None)
        if names is not None:
            return list(names.keys() if hasattr(names, "keys") else names)
    if hasattr(trunk, "get_intermediate_features"):  # VISSL's vision transformers
        depth = len(trunk.blocks)
        counted = [f"{kind}{number}" for kind in ("concatCLS", "blkCLS") for number in range(1, depth)]
        return ["lastCLS", *counted]
    return []


def _require_layer(trunk: nn.Module, spec: EncoderSpec) -> None:
    layers, layer = trunk_layers(trunk), spec.layer
    if layers and layer and layer not in (*layers, HEAD_LAYER):
        raise TeacherError(
            problem(
                spec.settings.layer,
                found=repr(layer),
                allowed=", ".join([*layers, HEAD_LAYER]) + ', or "" for the output of the trunk',
            )
        )
