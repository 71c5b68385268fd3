"""What the training in a folder was made from: one record that every later start is held against.

VISSL knows a training by its folder alone. It takes whatever checkpoint is there for its own, so that a training of
another network resumes from it, and a finished one lends its scores to any name.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vissl.config import AttrDict
from vissl.data import DATASET_SOURCE_MAP

from vissl_clusterfit.compute.chosen import KEY, Compute
from vissl_clusterfit.config.compute import AUTO, ComputeSettings
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.plugin.data.source_names import base_source, tolerant_source_name
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.stages import Stages
from vissl_clusterfit.plugin.training.checkpoints import has_checkpoints, is_checkpoint
from vissl_clusterfit.plugin.training.distillation import LOSS as DISTILLATION
from vissl_clusterfit.plugin.training.ema import EMA_NAME
from vissl_clusterfit.plugin.training.loggers import LOGGERS_NAME
from vissl_clusterfit.plugin.training.metrics_log import METRICS_LOG_NAME
from vissl_clusterfit.plugin.training.progress import METRICS_NAME
from vissl_clusterfit.report.costs import COSTS_NAME
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.storage.paths import artifact_path

RECORD_NAME = "training.json"
#: The folder beside the checkpoints with the trunk for other libraries.
EXPORT_NAME = "export"
CARD_NAME = "card.json"
#: The rows of a partial head beside the checkpoint of an epoch: ``head_phase<number>``.
HEAD_FOLDER = "head_phase"
_FORMAT = 1
_WEIGHTS = "MODEL.WEIGHTS_INIT.PARAMS_FILE"
_COMPUTE = "CLUSTERFIT.COMPUTE"
#: The batch of a step has the images of all processes, so their number and the batch of each decide together.
_PROCESSES = "DISTRIBUTED.NUM_NODES * NUM_PROC_PER_NODE"
_BATCH = "BATCHSIZE_PER_REPLICA"

#: Blocks of ``config`` that change what comes out; of others, as CHECKPOINT, HOOKS and MACHINE, nothing does.
_DECISIVE = ("MODEL", "OPTIMIZER", "METERS", "TRAINER", "SEED_VALUE", "TEST_ONLY", "TEST_MODEL", "TEST_EVERY_NUM_EPOCH")
#: What in these changes where and how it is computed, and nothing else.
_OF_THE_MACHINE = {
    "MODEL": ("CUDA_CACHE", "ACTIVATION_CHECKPOINTING", "SHARDED_DDP_SETUP", "FSDP_CONFIG", "_MODEL_INIT_SEED"),
    "DATA": ("DATA_PATHS", "LABEL_PATHS", "DATASET_NAMES", "MMAP_MODE", "COPY_TO_LOCAL_DISK", "COPY_DESTINATION_DIR"),
}

#: What else a training leaves in its folder.
_OF_A_TRAINING = (METRICS_NAME, METRICS_LOG_NAME, LOGGERS_NAME, "stdout.json", RECORD_NAME, COSTS_NAME, EMA_NAME)


def training_inputs(config: AttrDict) -> dict[str, Any]:
    """All that decides what a training of VISSL gives, or a test of it (``TEST_ONLY``), as JSON holds it.

    Data are known by their fingerprint and weights by their hash, wherever they are. Where weights are gone that a
    training has started from, their path stands for them.

    Raises:
        ClusterFitError: data or the teacher of pseudo-labels are missing.
    """
    inputs: dict[str, Any] = {name: config[name] for name in _DECISIVE}
    weights = config.MODEL.WEIGHTS_INIT.PARAMS_FILE
    inputs["MODEL"] = _without(config.MODEL, *_OF_THE_MACHINE["MODEL"], "WEIGHTS_INIT")
    if weights:
        inputs["MODEL"]["WEIGHTS_INIT"] = _without(config.MODEL.WEIGHTS_INIT, "PARAMS_FILE")
    inputs[_WEIGHTS] = weights and _of_file(weights)
    inputs["LOSS"] = {"name": config.LOSS.name, **(config.LOSS.get(config.LOSS.name) or {})}
    inputs[_PROCESSES] = config.DISTRIBUTED.NUM_NODES * config.DISTRIBUTED.NUM_PROC_PER_NODE
    splits = [] if config.TEST_ONLY else ["TRAIN"]
    splits += ["TEST"] if config.TEST_ONLY or config.TEST_MODEL else []
    inputs["DATA"] = {split: _data(config, split) for split in splits if config.DATA[split].DATA_SOURCES}
    if not config.TEST_ONLY and config.LOSS.name in ("clusterfit_loss", DISTILLATION):
        inputs["CLUSTERFIT"] = Stages(config).target_inputs()
    return json.loads(json.dumps(inputs, default=str, sort_keys=True))  # a type of numbers is among them


def _without(block: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in names}


def _of_file(path: str) -> dict[str, str]:
    place = artifact_path(path)
    return {"sha256": artifacts.file_sha256(place)} if place.is_file() else {"path": path}


def _data(config: AttrDict, split: str) -> dict[str, Any]:
    data = config.DATA[split]
    found = _without(data, *_OF_THE_MACHINE["DATA"])
    found["DATA_SOURCES"] = kinds = [base_source(source) for source in data.DATA_SOURCES]
    images = (
        SplitImages(config, split, []) if {*map(tolerant_source_name, kinds)} <= DATASET_SOURCE_MAP.keys() else None
    )
    found |= images.inputs() if images else {}
    if images is None or not images.have_files:  # a fingerprint knows their number alone
        found["DATA_PATHS"] = list(data.DATA_PATHS)
    if split == "TEST" and not data.DROP_LAST:
        found.pop(_BATCH)
    files = [
        path for path, source in zip(data.LABEL_PATHS, data.LABEL_SOURCES, strict=False) if source == "disk_filelist"
    ]
    return {**found, "LABEL_PATHS": [_of_file(path) for path in files]} if files else found


def check_record(
    config: AttrDict, folder: str, inputs: Mapping[str, Any], settings: ComputeSettings | None = None
) -> bool:
    """Refuses a folder whose training was made from something else; whether there is a record.

    A folder in which nothing was made yet, as the first command had a mistake, belongs to no training. Another
    number of processes with as many images in a step is the same training.

    Args:
        config: VISSL's ``config``.
        folder: ``CHECKPOINT.DIR``.
        inputs: as :func:`training_inputs` gives them.
        settings: ``config.CLUSTERFIT.COMPUTE``; what is ``auto`` in it is what the training began with.

    Raises:
        ArtifactError: naming each setting that differs, with both values, and the remedy.
    """
    place = artifact_path(folder, "config.CHECKPOINT.DIR")
    if not (place / RECORD_NAME).is_file() or not has_products(place):
        return False
    record, weights = artifacts.read_json(place / RECORD_NAME), config.MODEL.WEIGHTS_INIT.PARAMS_FILE
    found, expected = record.get("inputs"), copy.deepcopy(dict(inputs))
    if not isinstance(found, dict) or "weights" not in record:
        raise ArtifactError(
            f"{place / RECORD_NAME} is damaged: it does not say what the training was made from. Put it back, or name "
            "another config.CHECKPOINT.DIR."
        )
    if any(isinstance(of, dict) and "path" in of for of in (found.get(_WEIGHTS), expected[_WEIGHTS])):
        # The file is gone; its weights are in use.
        found[_WEIGHTS], expected[_WEIGHTS] = record["weights"], weights
    found[_COMPUTE] = _asked_for(settings, Compute.of_inputs(record))
    expected[_COMPUTE] = found[_COMPUTE] and _asked_for(settings, None)
    batches = _batch_of_step(found), _batch_of_step(expected)
    if batches[0] is not None and batches[0] == batches[1]:
        found[_PROCESSES], found["DATA"]["TRAIN"][_BATCH] = expected[_PROCESSES], expected["DATA"]["TRAIN"][_BATCH]
    if lines := artifacts.differences(found, expected):
        raise ArtifactError(
            f"{place} has a training that was made from other data or settings:\n{lines}\n"
            "Undo the change, or name another config.CHECKPOINT.DIR. To train again in this folder, set "
            "config.CHECKPOINT.OVERWRITE_EXISTING=true and AUTO_RESUME=false: what is there is moved aside."
        )
    return True


def _batch_of_step(inputs: Mapping[str, Any]) -> int | None:
    """The images of all processes in a step of a training; None where the inputs are those of a test, or damaged."""
    data = inputs.get("DATA")
    train = data.get("TRAIN") if isinstance(data, dict) else None
    factors = (inputs.get(_PROCESSES), train.get(_BATCH) if isinstance(train, dict) else None)
    return factors[0] * factors[1] if all(type(factor) is int for factor in factors) else None


def _asked_for(settings: ComputeSettings | None, compute: Compute | None) -> dict[str, Any]:
    """What of a way to compute the settings decide: their own values, or those of ``compute``."""
    if settings is None:
        return {}
    asked: dict[str, Any] = {"COMPILE": settings.compile if compute is None else compute.compiled}
    if settings.precision != AUTO:
        asked["PRECISION"] = settings.precision if compute is None else compute.precision
    if settings.channels_last != AUTO:
        asked["CHANNELS_LAST"] = settings.channels_last if compute is None else compute.channels_last
    return asked


def write_record(config: AttrDict, folder: str, inputs: Mapping[str, Any], *, resumes: bool = False) -> None:
    """Writes what the training in a folder is made from, before it makes anything.

    How its network computes is added once it is chosen (:func:`record_compute`), and stays while the training
    ``resumes``.
    """
    place, weights = artifact_path(folder, "config.CHECKPOINT.DIR"), config.MODEL.WEIGHTS_INIT.PARAMS_FILE
    record = {"format": _FORMAT, "engine": "train", "weights": weights, "inputs": inputs}
    known = artifacts.read_json(place / RECORD_NAME) if (place / RECORD_NAME).is_file() else {}
    if resumes and KEY in known:
        record[KEY] = known[KEY]
    if known != record:
        artifacts.write_json(place / RECORD_NAME, record)


def recorded_compute(folder: str) -> Compute | None:
    """How the network of the training in a folder computes; None if the record does not say."""
    place = artifact_path(folder) / RECORD_NAME
    record = artifacts.read_json(place) if place.is_file() else {}
    return Compute.of_inputs(record) if KEY in record else None


def record_compute(folder: str, compute: Compute) -> None:
    """Adds to the record of a training how its network computes."""
    place = artifact_path(folder) / RECORD_NAME
    if place.is_file():
        artifacts.write_json(place, {**artifacts.read_json(place), KEY: compute.inputs().get(KEY, {})})


def training_beside(weights: str) -> dict[str, Any] | None:
    """What the training was made from whose checkpoint is in the folder; None if that is not known."""
    folder, _, name = weights.rpartition("/")
    record = artifact_path(folder or ".") / RECORD_NAME
    if not (is_checkpoint(name) or name == EMA_NAME) or not record.is_file():
        return None
    inputs = artifacts.read_json(record).get("inputs")
    return inputs if isinstance(inputs, dict) and {"MODEL", "DATA"} <= inputs.keys() else None


def has_products(folder: Path) -> bool:
    """Whether a training, or a test, has left anything in a folder that a later one could take for its own."""
    metrics = folder / METRICS_NAME
    return has_checkpoints(folder) or (metrics.is_file() and bool(metrics.read_bytes().strip()))


def set_aside(folder: Path) -> Path:
    """Moves what a training has made in a folder of this machine into a new folder below it, which is returned."""
    number = 1
    while (aside := folder / f"replaced-{number}").exists():
        number += 1
    aside.mkdir()
    for name in sorted(names_in(folder)):
        is_export = name == EXPORT_NAME and (folder / name / CARD_NAME).is_file()
        is_head = re.fullmatch(rf"{HEAD_FOLDER}\d+", name) is not None
        is_file = is_checkpoint(name) or name in _OF_A_TRAINING
        if is_file or is_export or is_head:
            (folder / name).rename(aside / name)
    return aside
