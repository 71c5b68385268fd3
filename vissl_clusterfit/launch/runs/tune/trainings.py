"""The configs of the trainings that a tuning is made of, each derived from the one that the user gave."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl.config import AttrDict

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.launch.runs.tune.split import read_from

_SCHEDULES = ("lr", "lr_head")
#: The keys that hold rates, by the name of the schedule; VISSL's configs hold those of all others, too.
_RATES = {
    "constant": ("value",),
    "multistep": ("values",),
    "step": ("values",),
    "linear": ("start_value", "end_value"),
    "cosine": ("start_value", "end_value"),
    "cosine_warm_restart": ("start_value", "end_value"),
    "step_with_fixed_gamma": ("base_value",),
    "inverse_sqrt": ("start_value",),
}


@dataclass(frozen=True)
class Trial:
    """One point of the grid."""

    learning_rate: float
    weight_decay: float

    def __str__(self) -> str:
        return f"lr={self.learning_rate:g},wd={self.weight_decay:g}"


def grid(cfg: AttrDict, settings: TuneSettings) -> list[Trial]:
    """The settings that are tried, in the order of the config.

    Raises:
        ConfigError: a schedule whose rates are not known, or two settings whose names are the same.
    """
    rates = settings.learning_rates or [_own_rate(cfg)]
    decays = settings.weight_decays or [cfg.OPTIMIZER.weight_decay]
    if settings.weight_decays and cfg.OPTIMIZER.param_schedulers.get("weight_decay"):
        allowed = "[] with OPTIMIZER.param_schedulers.weight_decay, which takes its place"
        raise ConfigError(problem("config.TUNE.WEIGHT_DECAYS", found=settings.weight_decays, allowed=allowed))
    found = [Trial(float(rate), float(decay)) for rate, decay in itertools.product(rates, decays)]
    if len({str(setting) for setting in found}) < len(found):
        allowed = "values that differ in their first six digits"
        raise ConfigError(problem("config.TUNE", found=f"{rates} and {decays}", allowed=allowed))
    return found


def _own_rate(cfg: AttrDict) -> float:
    schedule = cfg.OPTIMIZER.param_schedulers.lr
    greatest = max(_rates(schedule))  # checks that the schedule is known
    scaling = schedule.get("auto_lr_scaling") or {}
    return scaling["base_value"] if scaling.get("auto_scale") else greatest


def _rates(schedule: Mapping[str, Any]) -> Iterator[float]:
    for part in schedule["schedulers"] if schedule["name"] == "composite" else ():
        yield from _rates(part)
    for key in _keys(schedule):
        values = schedule[key]
        yield from values if isinstance(values, list) else [values]


def _keys(schedule: Mapping[str, Any]) -> tuple[str, ...]:
    if schedule["name"] == "composite":
        return ()
    if schedule["name"] not in _RATES:
        allowed = f"composite, {', '.join(_RATES)}: others cannot be scaled"
        raise ConfigError(problem("config.OPTIMIZER.param_schedulers: name", found=schedule["name"], allowed=allowed))
    return _RATES[schedule["name"]]


def _scaled(schedule: AttrDict, factor: float) -> AttrDict:
    """A schedule with all of its rates times ``factor``."""
    scaled = copy.deepcopy(schedule)
    if schedule["name"] == "composite":
        scaled["schedulers"] = [_scaled(part, factor) for part in schedule["schedulers"]]
    for key in _keys(schedule):
        values = schedule[key]
        scaled[key] = [factor * value for value in values] if isinstance(values, list) else factor * values
    return scaled


def with_setting(cfg: AttrDict, setting: Trial, folder: Path) -> AttrDict:
    """The config of a training on TRAIN with one setting of the grid, in its own folder, without any test."""
    made = _in_folder(cfg, folder)
    optimizer = made.OPTIMIZER
    # VISSL has scaled the rates by the batch size already.
    factor = setting.learning_rate / _own_rate(cfg)
    for name in _SCHEDULES:
        if factor != 1 and optimizer.param_schedulers.get(name):
            optimizer.param_schedulers[name] = _scaled(optimizer.param_schedulers[name], factor)
    optimizer.weight_decay = setting.weight_decay
    if not optimizer.head_optimizer_params.use_different_wd:
        optimizer.head_optimizer_params.weight_decay = setting.weight_decay
    made.TEST_MODEL = False
    return made


def on_validation(cfg: AttrDict, setting: Trial, folder: Path, lists: Path) -> AttrDict:
    """The same on TRAIN minus the validation split, which takes the place of TEST."""
    made = with_setting(cfg, setting, folder)
    for split, part in (("TEST", "validation"), ("TRAIN", "fit")):  # TRAIN last: the other asks where it lies
        read_from(made, split, lists, part)
    _count_each_once(made)
    made.TEST_MODEL = True
    made.TEST_EVERY_NUM_EPOCH = made.OPTIMIZER.num_epochs
    return made


def of_test(cfg: AttrDict, network: Path, folder: Path) -> AttrDict:
    """The config of one pass over TEST, of a network with its heads, in one process: none counts a sample twice."""
    made = _in_folder(cfg, folder)
    made.TEST_MODEL = made.TEST_ONLY = True
    made.DISTRIBUTED.NUM_PROC_PER_NODE = 1
    made.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN = False
    made.MODEL.WEIGHTS_INIT.update(PARAMS_FILE=str(network), STATE_DICT_KEY_NAME="classy_state_dict", SKIP_LAYERS=[])
    made.MODEL.FEATURE_EVAL_SETTINGS.EVAL_TRUNK_AND_HEAD = True
    # VISSL tests as often as there are epochs, and checks schedules against their number.
    made.OPTIMIZER.num_epochs = 1
    never = {"name": "constant", "value": 0.0, "update_interval": "epoch"}
    made.OPTIMIZER.param_schedulers = AttrDict({name: AttrDict(never) for name in _SCHEDULES})
    _count_each_once(made)
    return made


def _in_folder(cfg: AttrDict, folder: Path) -> AttrDict:
    made = copy.deepcopy(cfg)
    made.CHECKPOINT.update(DIR=str(folder), AUTO_RESUME=True, OVERWRITE_EXISTING=False, APPEND_DISTR_RUN_ID=False)
    return made


def _count_each_once(cfg: AttrDict) -> None:
    """Has no sampler leave out samples of ``DATA.TEST``."""
    cfg.DATA.TEST.update(DROP_LAST=False, USE_STATEFUL_DISTRIBUTED_SAMPLER=False, USE_DEBUGGING_SAMPLER=False)
