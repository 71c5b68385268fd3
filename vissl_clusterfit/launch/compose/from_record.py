"""What the record of a training says of the weights beside it: their trunk, and the size of its images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.plugin.training.record import RECORD_NAME, training_beside
from vissl_clusterfit.plugin.training.seen_images import evaluation_transforms, image_size, size_warning

_OURS = "clusterfit/transfer"
_TRUNK, _TRANSFORMS = "config.MODEL.TRUNK", "config.TRANSFER.FEATURES.TRANSFORMS"


def complete_from_record(overrides: Sequence[str], composed: dict[str, Any]) -> list[str]:
    """Takes the trunk and the transforms of a transfer from the training of its weights, unless the user gives them.

    Args:
        overrides: of the command line.
        composed: the whole composed config, changed in place.

    Returns:
        What was changed, and sizes that do not go together, for the log.
    """
    config = composed["config"]
    if composed["engine_name"] != "clusterfit_transfer":
        return _teacher_of_another_size(config)
    weights = config["MODEL"]["WEIGHTS_INIT"]["PARAMS_FILE"]
    training = training_beside(weights) if weights else None
    if training is None:
        return []
    changes, record = [], os.path.join(os.path.dirname(weights), RECORD_NAME)
    names = [override.lstrip("+") for override in overrides]
    # A config that builds on ours has its own trunk and transforms: the protocol of its benchmark.
    is_ours = [name for name in names if name.startswith(("config=", "config/", "config@"))] == [f"config={_OURS}"]
    if is_ours and not any(name.startswith((_TRUNK, "config.MODEL.INPUT")) for name in names):
        for key in ("TRUNK", "INPUT_TYPE"):
            if config["MODEL"][key] != training["MODEL"][key]:
                config["MODEL"][key] = training["MODEL"][key]
                changes.append(f"config.MODEL.{key}: as {record} has it, of the training of these weights.")
    features = config["TRANSFER"]["FEATURES"]
    if is_ours and not any(name.startswith(_TRANSFORMS) for name in names):
        transforms = evaluation_transforms(training)
        if transforms and transforms != features["TRANSFORMS"]:
            changes.append(f"{_TRANSFORMS}: {transforms}, by the images of the training of these weights, in {record}.")
            features["TRANSFORMS"] = transforms
    return [*changes, *size_warning(_TRANSFORMS, features["TRANSFORMS"], _trained_size(training), "the network")]


def _teacher_of_another_size(config: Mapping[str, Any]) -> list[str]:
    if config["LOSS"]["name"] != "clusterfit_loss":
        return []
    settings = ClusterFitConfig.from_config(config["CLUSTERFIT"])
    training = training_beside(settings.teacher.weights) if settings.teacher.weights else None
    size = None if training is None else _trained_size(training)
    return size_warning("config.CLUSTERFIT.FEATURES.TRANSFORMS", settings.features.transforms, size, "the teacher")


def _trained_size(training: Mapping[str, Any]) -> int | None:
    return image_size(training["DATA"].get("TRAIN", {}).get("TRANSFORMS", []))
