"""Networks of other libraries in a config: the transforms of their features are theirs."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.config.network_names import (
    LIBRARY_WEIGHTS,
    TRUNK_BLOCK,
    TRUNK_NAME,
)
from vissl_clusterfit.models.image_transforms import in_words
from vissl_clusterfit.models.own_code import OwnModel
from vissl_clusterfit.models.source import ModelSource, imagenet_transforms, source_of
from vissl_clusterfit.models.transformers_models import TransformersModel

_TEACHER = "config.CLUSTERFIT.TEACHER"
_FEATURES = "config.CLUSTERFIT.FEATURES.TRANSFORMS"
_OF_TEACHERS = ("clusterfit_extract", "clusterfit_cluster", "clusterfit_label")
_LOSSES_WITH_TEACHER = ("clusterfit_loss", "clusterfit_distillation_loss")


def complete_networks(overrides: Sequence[str], composed: dict[str, Any]) -> list[str]:
    """Takes the transforms of a network of another library from it, unless the user gives others.

    A model of transformers is written with its own config, so that what comes out does not need its folder.

    Args:
        overrides: of the command line.
        composed: the whole composed config, changed in place.

    Returns:
        Each network whose features are taken, with its transforms, for the log.

    Raises:
        ClusterFitError: a model is unknown, or its library is not installed.
    """
    config, engine = composed["config"], composed["engine_name"]
    trunk, changes = config["MODEL"]["TRUNK"], []
    teacher = config["CLUSTERFIT"].get("TEACHER") or {}
    takes_features = engine in _OF_TEACHERS or (engine == "train" and config["LOSS"]["name"] in _LOSSES_WITH_TEACHER)
    if takes_features and teacher.get("WEIGHTS"):
        teachers = teacher["MODEL"].get("TRUNK") or trunk
        if teachers.get("NAME") == TRUNK_NAME:
            own = copy.deepcopy(teachers)
            teacher["MODEL"] = {**teacher["MODEL"], "TRUNK": own}
            setting = f"{_TEACHER}.MODEL"
            source = _source(
                own, teacher["WEIGHTS"], teacher["TRUST_WEIGHTS"], setting, f"{_TEACHER}.TRUST_WEIGHTS=true"
            )
            changes += _take_transforms(overrides, config["CLUSTERFIT"]["FEATURES"], own, source, _FEATURES)
            teacher["WEIGHTS"] = _describe_in_full(own, teacher["WEIGHTS"], source)
    if trunk["NAME"] == TRUNK_NAME:
        weights, trusted = config["MODEL"]["WEIGHTS_INIT"], os.environ.get(TRUST_VARIABLE) == "1"
        trust = f"the environment variable {TRUST_VARIABLE}=1"
        named = (trusted, "config.MODEL.TRUNK.NAME", trust)
        source = _source(trunk, weights["PARAMS_FILE"], *named)
        if engine == "clusterfit_transfer":
            features = config["TRANSFER"]["FEATURES"]
            changes += _take_transforms(overrides, features, trunk, source, "config.TRANSFER.FEATURES.TRANSFORMS")
        if drops := _name_drop_path(trunk, source):
            changes, source = [*changes, *drops], _source(trunk, weights["PARAMS_FILE"], *named)
        weights["PARAMS_FILE"] = _describe_in_full(trunk, weights["PARAMS_FILE"], source)
    return changes


def _source(trunk: Mapping[str, Any], weights: str, trusted: bool, setting: str, trust: str) -> ModelSource:
    block = trunk[TRUNK_BLOCK]
    given = {"arguments": block.get("ARGUMENTS") or {}, "config": block.get("CONFIG") or None, "weights": weights}
    return source_of(block["MODEL"], {**given, "trust_code": trusted, "setting": setting, "trust": trust})


def _name_drop_path(trunk: Mapping[str, Any], source: ModelSource) -> list[str]:
    """Writes DROP_PATH of the block as the argument that the library has for it; nothing where it has none."""
    block = trunk[TRUNK_BLOCK]
    rate = block.pop("DROP_PATH", 0)
    if not rate:
        return []
    name = source.drop_path_argument
    setting = f"config.MODEL.TRUNK.{TRUNK_BLOCK}"
    if not name:
        return [f"{setting}.DROP_PATH: {rate} has no effect, as {block['MODEL']} drops no paths."]
    block["ARGUMENTS"] = {name: rate, **block["ARGUMENTS"]}
    return [f"{setting}.ARGUMENTS: {name} is {block['ARGUMENTS'][name]}."]


def _take_transforms(
    overrides: Sequence[str], features: dict[str, Any], trunk: Mapping[str, Any], source: ModelSource, setting: str
) -> list[str]:
    given = any(override.lstrip("+").startswith(setting) for override in overrides)
    name, whose = trunk[TRUNK_BLOCK]["MODEL"], "as given"
    # A config may give others as well; those that it inherits are the defaults.
    if not given and features["TRANSFORMS"] == imagenet_transforms():
        features["TRANSFORMS"] = source.transforms()
        whose = f"as {name.partition(':')[0]} has them for it"
        if features["TRANSFORMS"] == imagenet_transforms() and isinstance(source, OwnModel):
            whose = "the usual ones of ImageNet, as nothing says which it was trained with"
    return [f"{setting}: for {name}, {in_words(features['TRANSFORMS'])}; {whose}."]


def _describe_in_full(trunk: dict[str, Any], weights: str, source: ModelSource) -> str:
    """Writes the config of a model of transformers into its block; its weights, where they are one file beside it."""
    if not isinstance(source, TransformersModel) or trunk[TRUNK_BLOCK].get("CONFIG"):
        return weights
    file = source.weights_file()
    if weights == LIBRARY_WEIGHTS and file is None:
        return weights  # transformers finds them itself: in several files, or on its hub
    trunk[TRUNK_BLOCK] = source.identity()
    return str(file) if weights == LIBRARY_WEIGHTS else weights
