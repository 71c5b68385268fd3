"""A VISSL network as an encoder from images to feature vectors: a layer of its trunk, or its head's output."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.config.clusterfit import FeatureSettings, TeacherSettings
from vissl_clusterfit.errors import ConfigError, TeacherError, problem
from vissl_clusterfit.plugin.models.weights import WeightsSettings, load_state_dict, load_weights
from vissl_clusterfit.storage.artifacts import file_sha256
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)

HEAD_LAYER = "heads"

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
        state_dict_key: where the state dict lies in the file; "" looks in the usual places.
        trust_weights: whether the file may run code when it is opened.
        layer: a layer of the trunk, "heads", or "" for the trunk's own output.
        pooling: how a feature map (C, H, W) becomes a vector: avg, max or flatten.
        seed: of the random start.
        settings: what messages call the settings.
    """

    model: Mapping[str, Any]
    weights: str | None
    state_dict_key: str
    trust_weights: bool
    layer: str
    pooling: str
    seed: int = 0
    settings: WeightsSettings = field(default_factory=WeightsSettings)

    def inputs(self) -> dict[str, Any]:
        """What decides the features, for the manifest of a feature store."""
        model = AttrDict(dict(self.model)).to_dict()
        inputs = {
            "trunk": model["TRUNK"],
            "input_type": model["INPUT_TYPE"],
            "weights_sha256": file_sha256(artifact_path(self.weights)) if self.weights else f"random, seed {self.seed}",
            "layer": self.layer,
            "pooling": self.pooling,
        }
        return {**inputs, "head": model["HEAD"]["PARAMS"]} if self.layer == HEAD_LAYER else inputs


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
    if not artifact_path(teacher.weights).is_file():
        raise TeacherError(
            problem(
                "config.CLUSTERFIT.TEACHER.WEIGHTS",
                found=f"{teacher.weights}, which does not exist",
                allowed="the path of a VISSL checkpoint, or of a torchvision or plain state dict",
            )
        )
    return dataclasses.replace(untrained_teacher(model, teacher, features), weights=teacher.weights)


def untrained_teacher(model: Mapping[str, Any], teacher: TeacherSettings, features: FeatureSettings) -> EncoderSpec:
    """The network of a run's teacher without its weights, which is enough to know what its features are like."""
    return EncoderSpec(
        model=_merged(model, teacher.model),
        weights=None,
        state_dict_key=teacher.state_dict_key,
        trust_weights=teacher.trust_weights,
        layer=features.layer_name,
        pooling=features.pooling,
    )


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def build_encoder(spec: EncoderSpec, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Builds the network, loads its weights and gives the function from images to features.

    Returns:
        A function from a batch of images (B, C, H, W) to features (B, D) float32, both on ``device``'s side of the
        call: images may lie on the CPU.

    Raises:
        TeacherError: the weights do not fit, or the layer does not exist (the message lists those that do).
    """
    network = load_network(spec, device)
    _require_layer(network.trunk, spec.layer)

    def encode(images: torch.Tensor) -> torch.Tensor:
        images = images.to(device, non_blocking=True)
        if spec.layer == HEAD_LAYER:
            features = network(images)[-1]
        else:
            features = network.trunk(images, [spec.layer] if spec.layer else [])[-1]
        return (_POOLINGS[spec.pooling](features) if features.ndim > 2 else features).float()

    return encode


def load_network(spec: EncoderSpec, device: torch.device) -> nn.Module:
    """Builds the network for inference, with all of its weights, the head's only where ``spec.layer`` asks for it.

    Raises:
        TeacherError: the weights do not fit.
    """
    network = _build_network(spec)
    if spec.weights:
        names = spec.settings
        state = load_state_dict(spec.weights, key=spec.state_dict_key, trusted=spec.trust_weights, settings=names)
        load_weights(network.trunk, state, "trunk", spec.weights, names)
        if spec.layer == HEAD_LAYER:
            load_weights(network.heads, state, "head", spec.weights, names)
    return network.eval().requires_grad_(False).to(device)


def _build_network(spec: EncoderSpec) -> nn.Module:
    model = AttrDict(copy.deepcopy(AttrDict(dict(spec.model)).to_dict()))
    # The block may come from a linear evaluation, where VISSL wraps the trunk and names its tensors otherwise.
    model.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON = False
    model._MODEL_INIT_SEED = spec.seed
    if spec.layer != HEAD_LAYER:
        model.HEAD.PARAMS = []
    elif not model.HEAD.PARAMS:
        raise ConfigError(
            problem(
                "config.CLUSTERFIT.TEACHER.MODEL.HEAD.PARAMS",
                found="no head",
                allowed='the head that was trained, with FEATURES.LAYER_NAME="heads"',
            )
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return build_model(model, AttrDict({}))


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


def _require_layer(trunk: nn.Module, layer: str) -> None:
    layers = trunk_layers(trunk)
    if layers and layer and layer not in (*layers, HEAD_LAYER):
        raise TeacherError(
            problem(
                "config.CLUSTERFIT.FEATURES.LAYER_NAME",
                found=repr(layer),
                allowed=", ".join([*layers, HEAD_LAYER]) + ', or "" for the output of the trunk',
            )
        )
