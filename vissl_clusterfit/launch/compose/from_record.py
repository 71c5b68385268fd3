"""What the record of a training says of the weights beside it: their trunk, and the size of its images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.models.library_network import require_no_code
from vissl_clusterfit.plugin.training.record import RECORD_NAME, training_beside
from vissl_clusterfit.plugin.training.seen_images import (
    evaluation_transforms,
    image_size,
    resized,
    size_warning,
)

_OURS, _VISSLS = "clusterfit/transfer", "benchmark/"
_SHIPPED = (_OURS, _VISSLS, "clusterfit/tune")
_TRUNK, _TRANSFORMS = "config.MODEL.TRUNK", "config.TRANSFER.FEATURES.TRANSFORMS"
_LAYERS = "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
#: Layers of VISSL's trunks that are as wide for images of any size.
_OF_ANY_SIZE = ("res5avg", "avgpool", "flatten", "lastCLS")


def complete_from_record(overrides: Sequence[str], composed: dict[str, Any]) -> list[str]:
    """Takes trunk, sizes and transforms of a benchmark from the training of its weights, unless the user gives them.

    A config of the user's keeps its own; it is the protocol of a benchmark.

    Args:
        overrides: of the command line.
        composed: the whole composed config, changed in place.

    Returns:
        What was changed, and sizes that do not go together, for the log.

    Raises:
        ConfigError: the benchmark asks for layers of another trunk.
    """
    config = composed["config"]
    names = [override.lstrip("+") for override in overrides]
    chosen = [name for name in names if name.startswith(("config=", "config/", "config@"))]
    base = chosen[0].removeprefix("config=") if len(chosen) == 1 else ""
    is_transfer, is_shipped = composed["engine_name"] == "clusterfit_transfer", base.startswith(_SHIPPED)
    if not (is_transfer or is_shipped or config.get("BENCHMARK") is not None):
        return []
    weights = config["MODEL"]["WEIGHTS_INIT"]["PARAMS_FILE"]
    training = training_beside(weights) if weights else None
    if training is None:
        return []
    record = os.path.join(os.path.dirname(weights), RECORD_NAME)
    changes = []
    if is_shipped and not any(name.startswith((_TRUNK, "config.MODEL.INPUT")) for name in names):
        changes += _take_trunk(config["MODEL"], training, record, any(name.startswith(_LAYERS) for name in names))
    if is_transfer:
        given = any(name.startswith(_TRANSFORMS) for name in names)
        return [
            *changes,
            *_take_transforms(config["TRANSFER"]["FEATURES"], training, record, base == _OURS and not given),
        ]
    given = [split for split in ("TRAIN", "TEST") if any(name.startswith(_images(split)) for name in names)]
    return [*changes, *_take_sizes(config, training, base.startswith(_VISSLS), given)]


def _take_trunk(model: dict[str, Any], training: Mapping[str, Any], record: str, has_layers: bool) -> list[str]:
    trunk, theirs = training["MODEL"]["TRUNK"], model["TRUNK"]
    layers = model["FEATURE_EVAL_SETTINGS"]["LINEAR_EVAL_FEAT_POOL_OPS_MAP"]
    if layers and not has_layers and trunk["NAME"] != theirs["NAME"]:
        raise ConfigError(
            problem(
                _LAYERS,
                found=f"{', '.join(layer for layer, _ in layers)}, layers of the trunk {theirs['NAME']}, and weights "
                f"of a {trunk['NAME']} ({record})",
                allowed="layers of that trunk, with heads as wide as these",
                remedy="Or take config=clusterfit/transfer, which needs neither.",
            )
        )
    changes = []
    for key in ("TRUNK", "INPUT_TYPE"):
        if model[key] != training["MODEL"][key]:
            require_no_code(trunk, record)
            model[key] = training["MODEL"][key]
            changes.append(f"config.MODEL.{key}: as {record} has it, of the training of these weights.")
    return changes


def _take_transforms(features: dict[str, Any], training: Mapping[str, Any], record: str, wanted: bool) -> list[str]:
    """Those of a transfer."""
    changes = []
    transforms = evaluation_transforms(training) if wanted else []
    if transforms and transforms != features["TRANSFORMS"]:
        changes.append(f"{_TRANSFORMS}: {transforms}, by the images of the training of these weights, in {record}.")
        features["TRANSFORMS"] = transforms
    return [*changes, *size_warning(_TRANSFORMS, features["TRANSFORMS"], _trained_size(training), "the network")]


def _take_sizes(
    config: dict[str, Any], training: Mapping[str, Any], is_vissls: bool, given: Sequence[str]
) -> list[str]:
    """Of a benchmark of VISSL's that is the same for images of any size: their size, and how they are normalised."""
    changes: list[str] = []
    size = _trained_size(training)
    layers = config["MODEL"]["FEATURE_EVAL_SETTINGS"]["LINEAR_EVAL_FEAT_POOL_OPS_MAP"]
    fits_any = all(pool[0].startswith("Adaptive") or layer in _OF_ANY_SIZE for layer, pool in layers)
    for split in ("TRAIN", "TEST"):
        name, data = _images(split), config["DATA"][split]
        own = data["TRANSFORMS"]
        if is_vissls and fits_any and split not in given and None not in (size, image_size(own)):
            wanted = resized(own, size, training["DATA"]["TRAIN"]["TRANSFORMS"])
            if wanted != own:
                data["TRANSFORMS"] = wanted
                changes.append(f"{name}: for images of {size} pixels, as those of the training of these weights.")
        changes += size_warning(name, data["TRANSFORMS"], size, "the network")
    return changes


def _images(split: str) -> str:
    return f"config.DATA.{split}.TRANSFORMS"


def teacher_of_another_size(config: Mapping[str, Any]) -> list[str]:
    """What is said where features are of images of another size than those that the teacher was trained with.

    Args:
        config: VISSL's, with the transforms that the run will take.
    """
    if config["LOSS"]["name"] != "clusterfit_loss":
        return []
    settings = ClusterFitConfig.from_config(config)
    training = training_beside(settings.teacher.weights) if settings.teacher.weights else None
    size = None if training is None else _trained_size(training)
    return size_warning("config.CLUSTERFIT.FEATURES.TRANSFORMS", settings.features.transforms, size, "the teacher")


def _trained_size(training: Mapping[str, Any]) -> int | None:
    return image_size(training["DATA"].get("TRAIN", {}).get("TRANSFORMS", []))
