"""Rows of the benchmarks that are trainings of VISSL: linear heads on a frozen trunk, full tuning, semi-supervised.

VISSL leaves ``metrics.json`` with a line for each phase. The row has the score of the last test phase: the best one
would be chosen on the test split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vissl.config import AttrDict
from vissl.trainer.trainer_main import build_task

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.plugin.benchmarks.readable import COUNTS, describe_counts
from vissl_clusterfit.plugin.benchmarks.rows import BenchmarkSettings, common_fields
from vissl_clusterfit.plugin.training.progress import read_metrics
from vissl_clusterfit.report.results import ResultRow, record_scores
from vissl_clusterfit.storage.paths import artifact_path

_FREEZING = ("FREEZE_TRUNK_ONLY", "FREEZE_TRUNK_AND_HEAD")

#: The keys of a schedule that are read, by its name; VISSL's configs hold those of all others, too.
_USED = {
    "constant": ("value",),
    "multistep": ("values", "milestones"),
    "step": ("values",),
    "linear": ("start_value", "end_value"),
    "cosine": ("start_value", "end_value"),
    "composite": ("schedulers", "lengths", "interval_scaling"),
}


def add_trained_rows(config: AttrDict, folder: str) -> None:
    """Puts the scores of a finished training or test of VISSL's into ``results.json``.

    Args:
        config: its ``config``; nothing is done where it is no benchmark, that is without a block ``BENCHMARK``.
        folder: with its ``metrics.json``.

    Raises:
        ArtifactError: there is no score of a test phase.
    """
    if config.get("BENCHMARK") is None:
        return
    line = last_test(folder)
    settings = BenchmarkSettings.from_config(config)
    common = common_fields(config, settings)
    protocol = _protocol(config, line)
    kind = _kind(config)
    rows = [
        ResultRow(**common, benchmark=f"{kind}, {layer}", metric=metric, value=value, protocol=protocol)
        for metric, layer, value in scores(line)
    ]
    record_scores(artifact_path(folder), rows)


def last_test(folder: str) -> Mapping[str, Any]:
    """The line of the last test phase in the folder of a training.

    Raises:
        ArtifactError: there is none.
    """
    tested = [row for row in read_metrics(folder) if any(name.startswith("test_") for name in row)]
    if not tested:
        raise ArtifactError(f"{folder} has no score of a test phase: set config.TEST_MODEL=true and METERS.")
    return tested[-1]


def scores(line: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Metric, layer and value, as a fraction. VISSL's meters give percent, one or several for each name."""
    for name, of_metric in line.items():
        if not name.startswith("test_") or name == COUNTS:
            continue
        for metric, of_layer in of_metric.items():
            if metric == "AP":  # of each class
                continue
            for layer, values in of_layer.items():
                several = isinstance(values, list)
                for place, value in enumerate(values if several else [values]):
                    where = f"output {layer}" if layer.isdigit() else f"layer {layer}"
                    yield _metric(metric), where + (f", {place}" if several else ""), value / 100


def _metric(name: str) -> str:
    top = re.fullmatch(r"top_(\d+)", name)
    return f"top-{top[1]} accuracy" if top else name


def _kind(config: AttrDict) -> str:
    if config.TEST_ONLY:
        return "test as it is"
    if not _is_frozen(config):
        return "fine-tuning"
    single = all(len(head[1].get("dims", [])) == 2 for head in config.MODEL.HEAD.PARAMS)
    return "linear" if single else "heads on the frozen trunk"


def _is_frozen(config: AttrDict) -> bool:
    evaluation = config.MODEL.FEATURE_EVAL_SETTINGS
    return bool(evaluation.EVAL_MODE_ON and any(evaluation[name] for name in _FREEZING))


def _protocol(config: AttrDict, line: Mapping[str, Any]) -> str:
    if config.TEST_ONLY:
        parts = ["VISSL's test of the network as it is", test_views(config), describe_counts(line)]
        return "; ".join(filter(None, parts))
    optimizer = config.OPTIMIZER
    phases = sum(phase["train"] for phase in build_task(config)._build_phases())
    done = (line["train_phase_idx"] + 1) * optimizer.num_epochs / phases
    last = f"the score after epoch {done:g} of {optimizer.num_epochs}, the last that was tested, which is not chosen"
    return "; ".join(filter(None, [describe_training(config), test_views(config), describe_counts(line), last]))


def test_views(config: AttrDict) -> str:
    """How test images are looked at, for the protocol of a row."""
    return f"test images by {_views(config, 'TEST')}"


def describe_training(config: AttrDict) -> str:
    """What a training of VISSL's does, for the protocol of a row."""
    evaluation, optimizer = config.MODEL.FEATURE_EVAL_SETTINGS, config.OPTIMIZER
    batch = config.DATA.TRAIN.BATCHSIZE_PER_REPLICA
    processes = config.DISTRIBUTED.NUM_NODES * config.DISTRIBUTED.NUM_PROC_PER_NODE
    layers = list(evaluation.LINEAR_EVAL_FEAT_POOL_OPS_MAP) if evaluation.EVAL_MODE_ON else []
    limit = config.DATA.TRAIN.DATA_LIMIT
    parts = [
        f"VISSL's training of {'heads on the frozen trunk' if _is_frozen(config) else 'trunk and heads'}",
        f"layers {_json(layers)}" if layers else "",
        f"heads {_json(config.MODEL.HEAD.PARAMS)}",
        f"loss {config.LOSS.name}",
        f"on {', '.join(config.DATA.TRAIN.DATASET_NAMES)}" + (f", {limit} samples" if limit >= 0 else ""),
        f"batches of {batch} in {processes} process{'es' if processes > 1 else ''}",
        f"images by {_views(config, 'TRAIN')}",
        f"{optimizer.name}, momentum {optimizer.momentum:g}{' (Nesterov)' * bool(optimizer.nesterov)}, "
        f"weight decay {optimizer.weight_decay:g}, {_schedules(optimizer.param_schedulers)}",
    ]
    return "; ".join(filter(None, parts))


def _schedules(schedulers: Mapping[str, Any]) -> str:
    """What VISSL reads of each schedule, rates as they are after its scaling by the batch size."""
    texts: dict[str, str] = {}
    for name, schedule in schedulers.items():
        if schedule is not None:
            used = {key: schedule[key] for key in _USED.get(schedule["name"], schedule) if key in schedule}
            texts[name] = f"{schedule['name']} {_json(used)} by {schedule.get('update_interval')}"
    if texts.get("lr_head") == texts.get("lr"):
        texts.pop("lr_head", None)
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _views(config: AttrDict, split: str) -> str:
    return _json(list(config.DATA[split].TRANSFORMS))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
