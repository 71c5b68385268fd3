"""What the keys of VISSL that a run reads may be, as a table: VISSL itself takes any value, and fails later or never.

A name is looked up in the registry that it is for. Everything wrong is said in one message, before anything starts.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import vissl.config
from omegaconf import OmegaConf

from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.config.schema import checked_value
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose.quick_yaml import quick_yaml
from vissl_clusterfit.launch.compose.registered_names import registered_names

#: What NumPy takes as a seed. VISSL multiplies that of a process with the number of epochs.
_SEEDS = 2**32
_SPLITS = ("config.DATA.TRAIN", "config.DATA.TEST")
#: In pixels, of each side; a grey one of it has 300 MB.
_LARGEST_IMAGE = 10_000
#: By the type of VISSL's default: what a value may be, and the words for it. A number may stand for a text.
_TYPES: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "a value of type bool"),
    int: ((int, float), "a number"),
    float: ((int, float), "a number"),
    str: ((str, int, float, type(None)), "a value of type str"),
    list: ((list,), "a value of type list"),
    dict: ((Mapping,), "a value of type dict"),
}
#: What is checked where it is read.
_CHECKED_ELSEWHERE = ("config.CLUSTERFIT", "config.MODEL.TRUNK")
#: Blocks of which a run reads what is chosen by name.
_MAY_BE_MISSING = ("config.LOSS.", "config.METERS.", "config.OPTIMIZER.param_schedulers.")
#: A data source that seven of VISSL's configs name and no public VISSL has: they compose, and are refused when run.
_NOT_PUBLIC = "everstore"
#: How many names a message lists where none is near.
_MAX_LISTED = 20
_MISSING = object()


@dataclass(frozen=True)
class _Key:
    """One row: the key, its type, and what it may be; ``items`` is the type of what a list holds."""

    name: str
    kind: type
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] = ()
    items: type | None = None
    #: Whether a list may stand for an item, as several label files of one data source.
    nested: bool = False


@dataclass(frozen=True)
class _Name:
    """A key with names of a registry: one, some in a list, or those of what a list holds; "" stands for none."""

    name: str
    kind: str
    others: tuple[str, ...] = ()


KEYS = (
    _Key("node_id", int, at_least=0),
    _Key("config.SEED_VALUE", int, at_least=0, at_most=_SEEDS - 1),
    _Key("config.LOG_FREQUENCY", int, at_least=1),
    _Key("config.TEST_EVERY_NUM_EPOCH", int, at_least=1),
    _Key("config.MULTI_PROCESSING_METHOD", str, choices=("forkserver", "spawn", "fork")),
    _Key("config.MACHINE.DEVICE", str, choices=("cpu", "gpu")),
    _Key("config.DATA.NUM_DATALOADER_WORKERS", int, at_least=0),
    *(
        _Key(f"{split}.{key}", kind, **allowed)
        for split in _SPLITS
        for key, kind, allowed in (
            ("DATA_SOURCES", list, {"items": str}),
            ("DATA_PATHS", list, {"items": str}),
            ("LABEL_SOURCES", list, {"items": str}),
            ("LABEL_PATHS", list, {"items": str, "nested": True}),
            ("DATASET_NAMES", list, {"items": str}),
            ("TRANSFORMS", list, {"items": dict}),
            ("BATCHSIZE_PER_REPLICA", int, {"at_least": 1}),
            ("LABEL_TYPE", str, {"choices": ("standard", "sample_index", "zero")}),
            ("REMOVE_IMG_PATH_PREFIX", str, {}),
            ("NEW_IMG_PATH_PREFIX", str, {}),
            ("DEFAULT_GRAY_IMG_SIZE", int, {"at_least": 1, "at_most": _LARGEST_IMAGE}),
            ("DATA_LIMIT", int, {"at_least": -1}),
            ("DATA_LIMIT_SAMPLING.SEED", int, {"at_least": 0, "at_most": _SEEDS - 1}),
            ("DATA_LIMIT_SAMPLING.SKIP_NUM_SAMPLES", int, {"at_least": 0}),
        )
    ),
    _Key("config.METERS.names", list, items=str),
    *(
        _Key(f"config.HOOKS.PERF_STATS.{key}", int, at_least=-1)
        for key in ("PERF_STAT_FREQUENCY", "ROLLING_BTIME_FREQ")
    ),
    _Key("config.MONITORING.MONITOR_ACTIVATION_STATISTICS", int, at_least=0),
    _Key("config.MODEL.MULTI_INPUT_HEAD_MAPPING", list, items=list),
    _Key("config.CLUSTERFIT.FEATURES.TRANSFORMS", list, items=dict),
    _Key("config.MODEL.INPUT_TYPE", str, choices=("rgb", "bgr", "lab")),
    _Key("config.MODEL.HEAD.PARAMS", list, items=list),
    _Key("config.MODEL.WEIGHTS_INIT.PARAMS_FILE", str),
    _Key("config.MODEL.AMP_PARAMS.AMP_TYPE", str, choices=("apex", "pytorch")),
    _Key("config.MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE", str, choices=("apex", "pytorch")),
    _Key("config.OPTIMIZER.num_epochs", int, at_least=1),
    *(_Key(f"config.OPTIMIZER.{name}", float, at_least=0, at_most=1e9) for name in ("weight_decay", "momentum")),
    _Key("config.OPTIMIZER.param_schedulers.lr", dict),
    *(
        _Key(f"config.OPTIMIZER.param_schedulers.{name}.update_interval", str, choices=("step", "epoch"))
        for name in ("lr", "lr_head")
    ),
    _Key("config.CHECKPOINT.DIR", str),
    _Key("config.CHECKPOINT.BACKEND", str, choices=("disk",)),
    _Key("config.CHECKPOINT.CHECKPOINT_FREQUENCY", int, at_least=1),
    _Key("config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY", int, at_least=-1),
    _Key("config.DISTRIBUTED.BACKEND", str, choices=("gloo", "nccl")),
    _Key("config.DISTRIBUTED.NUM_NODES", int, at_least=1),
    _Key("config.DISTRIBUTED.NUM_PROC_PER_NODE", int, at_least=1),
    _Key("config.DISTRIBUTED.INIT_METHOD", str, choices=("tcp", "env", "file")),
)

NAMES = (
    # Runs that are started one after the other, which the launcher does itself.
    _Name("engine_name", "engine", others=("clusterfit_study",)),
    *(
        _Name(f"{split}.{key}", kind, others)
        for split in _SPLITS
        for key, kind, others in (
            ("DATA_SOURCES", "data source", (_NOT_PUBLIC,)),
            ("TRANSFORMS", "transform", ()),
            ("COLLATE_FUNCTION", "collator", ("default_collate",)),
        )
    ),
    _Name("config.CLUSTERFIT.FEATURES.TRANSFORMS", "transform"),
    _Name("config.LOSS.name", "loss"),
    _Name("config.METERS.name", "meter"),
    _Name("config.METERS.names", "meter"),
    _Name("config.MODEL.TRUNK.NAME", "trunk"),
    _Name("config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME", "trunk"),
    _Name("config.MODEL.HEAD.PARAMS", "head"),
    _Name("config.OPTIMIZER.name", "optimizer"),
    _Name("config.OPTIMIZER.param_schedulers", "scheduler"),
    _Name("config.TRAINER.TASK_NAME", "task"),
    _Name("config.TRAINER.TRAIN_STEP_NAME", "train step"),
)


def require_known_values(composed: Mapping[str, Any]) -> None:
    """Checks all keys of the table that are there.

    Args:
        composed: the whole config, as plain dictionaries and lists.

    Raises:
        ConfigError: naming every value of another type, out of range, or that no registry has.
    """
    problems: list[str] = []
    for row in KEYS:
        place, value = _reach(composed, row.name)
        if value is not _MISSING and place == row.name:
            _check(row, value, problems)
    rows = {row.name for row in (*KEYS, *NAMES)}
    problems += _of_other_types(composed["config"], vissls_defaults()["config"], rows, "config.")
    for block in ("LOSS", "METERS") if not problems else ():
        problems += _chosen_blocks(composed["config"][block], f"config.{block}")
    wrong = tuple(problems)
    problems += filter(None, (_unknown(row, composed) for row in NAMES if not _is_said(row.name, wrong)))
    if not problems:
        problems += [*_heads(composed), *_seeds(composed)]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


@functools.cache
def vissls_defaults() -> Mapping[str, Any]:
    """VISSL's file of defaults, interpolations as they are."""
    with quick_yaml(), Path(vissl.config.__file__).with_name("defaults.yaml").open(encoding="utf-8") as file:
        defaults = OmegaConf.load(file)
    return cast("Mapping[str, Any]", OmegaConf.to_container(defaults, resolve=False))


def _of_other_types(
    composed: Mapping[str, Any], defaults: Mapping[str, Any], rows: Container[str], parent: str
) -> Iterator[str]:
    """Keys with a value of another type than VISSL's default, but those of ``rows``; and keys that were taken out."""
    for key, default in defaults.items():
        place, value = f"{parent}{key}", composed.get(key, _MISSING)
        if default is None or "${" in str(default)[:2] or (place in rows and value is not _MISSING):
            continue
        kinds, words = _TYPES[type(default)]
        if value is _MISSING:
            if not place.startswith(_MAY_BE_MISSING):
                yield problem(place, found="nothing", allowed=words, remedy="VISSL reads it: leave it in its place.")
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            if value is not None or not place.startswith(_MAY_BE_MISSING):
                yield problem(place, found=repr(value), allowed=words)
        elif isinstance(default, Mapping) and place not in _CHECKED_ELSEWHERE:
            yield from _of_other_types(value, default, rows, f"{place}.")


def _chosen_blocks(block: Mapping[str, Any], place: str) -> Iterator[str]:
    """The parameters of a loss or of meters that are none, and numbers of first places that are none."""
    for name in (block.get("name"), *(block.get("names") or ())):
        parameters = block.get(name) if isinstance(name, str) else None
        if parameters is not None and not isinstance(parameters, Mapping):
            yield problem(f"{place}.{name}", found=repr(parameters), allowed=_TYPES[dict][1])
        first = parameters.get("topk_values") if isinstance(parameters, Mapping) else None
        if isinstance(first, list) and not all(type(number) is int and number > 0 for number in first):
            yield problem(f"{place}.{name}.topk_values", found=first, allowed="whole numbers of at least 1")


def require_public_data(config: Mapping[str, Any]) -> None:
    """Refuses to run a config on data that only their publisher can read.

    Args:
        config: the mapping below ``config``.

    Raises:
        ConfigError: it names such a data source.
    """
    for split in _SPLITS:
        if _NOT_PUBLIC in config["DATA"][split.rpartition(".")[2]]["DATA_SOURCES"]:
            raise ConfigError(
                problem(
                    f"{split}.DATA_SOURCES",
                    found=f"{_NOT_PUBLIC!r}, which no public VISSL has",
                    allowed="the name of a registered data source",
                    remedy=f"Name your copy of the data: {split}.DATA_SOURCES=[disk_folder] {split}.DATA_PATHS=[…]",
                )
            )


def _is_said(key: str, problems: Iterable[str]) -> bool:
    return any(said.startswith((f"{key}:", f"{key}[")) for said in problems)


def _check(row: _Key, value: Any, problems: list[str]) -> None:
    before = len(problems)
    allowed = {"choices": row.choices, "at_least": row.at_least, "at_most": row.at_most}
    checked_value(row.kind, value, row.name, problems, **allowed)
    if row.items and len(problems) == before:
        for number, item in enumerate(value):
            for inside in item if row.nested and isinstance(item, list) else [item]:
                checked_value(row.items, inside, f"{row.name}[{number}]", problems)


def _reach(composed: Mapping[str, Any], key: str) -> tuple[str, Any]:
    """How far into the config a key leads, and what is there: its value, ``_MISSING``, or what is no block."""
    value, reached = composed, []
    for part in key.split("."):
        if not isinstance(value, Mapping):
            break
        value = value.get(part, _MISSING)
        if value is _MISSING:
            break
        reached.append(part)
    return ".".join(reached), value


def _unknown(row: _Name, composed: Mapping[str, Any]) -> str | None:
    """What is wrong with the first unknown name."""
    reached, value = _reach(composed, row.name)
    if reached != row.name:
        return None
    for place, name in _names(value, row.name):
        if not isinstance(name, str):
            return problem(place, found=repr(name), allowed=f"the name of a registered {row.kind}")
        known = {*registered_names(row.kind), *row.others}
        # VISSL looks a transform up in this spelling, too: random_crop for RandomCrop.
        titled = name.title().replace("_", "") if row.kind == "transform" else name
        if name and name not in known and titled not in known:
            near, shown = nearest(name, known), ", ".join(sorted(known)[:_MAX_LISTED])
            more = ", …" if len(known) > _MAX_LISTED else ""
            return problem(
                place,
                found=f"{name!r}, no registered {row.kind}",
                allowed=f"the name of a registered {row.kind}" if near else f"{shown}{more}",
                remedy=proposal(near),
            )
    return None


def _names(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """The names at a key, each with its place: of a head its first item, of a block its ``name``."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            inside = f"{place}[{number}]"
            if isinstance(item, list) and item and isinstance(item[0], str):  # a head with its parameters
                yield inside, item[0]
            elif isinstance(item, Mapping):
                if "name" in item and "transform_type" not in item:  # of a library that is not asked here
                    yield f"{inside}.name", item["name"]
            else:
                yield from _names(item, inside)
    elif isinstance(value, Mapping):
        for key, block in value.items():  # one schedule for each
            if isinstance(block, Mapping) and "name" in block:
                yield f"{place}.{key}.name", block["name"]
                if block["name"] == "composite":
                    yield from _names(block.get("schedulers", []), f"{place}.{key}.schedulers")
            elif block is not None and not isinstance(block, Mapping):
                yield f"{place}.{key}", block
    else:
        yield place, value


def _heads(composed: Mapping[str, Any]) -> Iterator[str]:
    key = "config.MODEL.HEAD.PARAMS"
    for number, head in enumerate(composed["config"]["MODEL"]["HEAD"]["PARAMS"]):
        several = bool(head) and all(isinstance(one, list) for one in head)
        for one in head if several else [head]:
            if len(one) != 2 or not isinstance(one[0], str) or not isinstance(one[1], Mapping):
                allowed = "[name, {parameters}], or a list of such heads, one after the other"
                yield problem(f"{key}[{number}]", found=repr(one), allowed=allowed)


def _seeds(composed: Mapping[str, Any]) -> Iterator[str]:
    config = composed["config"]
    processes = config["DISTRIBUTED"]["NUM_NODES"] * config["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
    largest = (_SEEDS - 1) // config["OPTIMIZER"]["num_epochs"] - processes + 1
    if config["SEED_VALUE"] > largest:
        yield problem(
            "config.SEED_VALUE",
            found=config["SEED_VALUE"],
            allowed=f"0 to {largest} for this number of processes and epochs, which VISSL adds and multiplies with it",
        )
