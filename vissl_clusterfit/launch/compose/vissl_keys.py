"""What the keys of VISSL that a run reads may be, as a table: VISSL itself takes any value, and fails later or never.

A name is looked up in the registry that it is for. Everything wrong is said in one message, before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.config.schema import checked_value
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose.registered_names import registered_names

#: What NumPy takes as a seed. VISSL multiplies that of a process with the number of epochs.
_SEEDS = 2**32
_SPLITS = ("config.DATA.TRAIN", "config.DATA.TEST")
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
    _Key("config.TEST_ONLY", bool),
    _Key("config.TEST_MODEL", bool),
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
            ("MMAP_MODE", bool, {}),
            ("DROP_LAST", bool, {}),
            ("COPY_TO_LOCAL_DISK", bool, {}),
            ("DATA_LIMIT", int, {"at_least": -1}),
            ("DATA_LIMIT_SAMPLING.SEED", int, {"at_least": 0, "at_most": _SEEDS - 1}),
            ("DATA_LIMIT_SAMPLING.IS_BALANCED", bool, {}),
            ("DATA_LIMIT_SAMPLING.SKIP_NUM_SAMPLES", int, {"at_least": 0}),
        )
    ),
    _Key("config.METERS.names", list, items=str),
    *(
        _Key(f"config.HOOKS.PERF_STATS.{key}", int, at_least=-1)
        for key in ("PERF_STAT_FREQUENCY", "ROLLING_BTIME_FREQ")
    ),
    # Blocks that VISSL reads in every training, each by one of their keys.
    *(
        _Key(f"config.{key}", bool)
        for key in (
            "HOOKS.CHECK_NAN",
            "HOOKS.MEMORY_SUMMARY.PRINT_MEMORY_SUMMARY",
            "HOOKS.MODEL_COMPLEXITY.COMPUTE_COMPLEXITY",
            "HOOKS.TENSORBOARD_SETUP.USE_TENSORBOARD",
            "MODEL.ACTIVATION_CHECKPOINTING.USE_ACTIVATION_CHECKPOINTING",
            "MODEL.CUDA_CACHE.CLEAR_CUDA_CACHE",
            "MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON",
            "MODEL.FSDP_CONFIG.AUTO_SETUP_FSDP",
            "MODEL.GRAD_CLIP.USE_GRAD_CLIP",
            "MODEL.SHARDED_DDP_SETUP.USE_SDP",
            "OPTIMIZER.head_optimizer_params.use_different_lr",
            "PROFILING.MEMORY_PROFILING.TRACK_BY_LAYER_MEMORY",
            "PROFILING.RUNTIME_PROFILING.USE_PROFILER",
            "REPRODUCIBILITY.CUDDN_DETERMINISTIC",
        )
    ),
    _Key("config.MONITORING.MONITOR_ACTIVATION_STATISTICS", int, at_least=0),
    _Key("config.MODEL.MULTI_INPUT_HEAD_MAPPING", list, items=list),
    _Key("config.CLUSTERFIT.FEATURES.TRANSFORMS", list, items=dict),
    _Key("config.MODEL.INPUT_TYPE", str, choices=("rgb", "bgr", "lab")),
    _Key("config.MODEL.HEAD.PARAMS", list, items=list),
    _Key("config.MODEL.WEIGHTS_INIT.PARAMS_FILE", str),
    _Key("config.MODEL.AMP_PARAMS.USE_AMP", bool),
    _Key("config.MODEL.AMP_PARAMS.AMP_TYPE", str, choices=("apex", "pytorch")),
    _Key("config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN", bool),
    _Key("config.MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE", str, choices=("apex", "pytorch")),
    _Key("config.OPTIMIZER.num_epochs", int, at_least=1),
    _Key("config.OPTIMIZER.weight_decay", float, at_least=0),
    _Key("config.OPTIMIZER.momentum", float, at_least=0),
    _Key("config.OPTIMIZER.param_schedulers.lr", dict),
    _Key("config.CHECKPOINT.DIR", str),
    _Key("config.CHECKPOINT.BACKEND", str, choices=("disk",)),
    _Key("config.CHECKPOINT.AUTO_RESUME", bool),
    _Key("config.CHECKPOINT.CHECKPOINT_FREQUENCY", int, at_least=1),
    _Key("config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY", int, at_least=-1),
    _Key("config.DISTRIBUTED.BACKEND", str, choices=("gloo", "nccl")),
    _Key("config.DISTRIBUTED.NUM_NODES", int, at_least=1),
    _Key("config.DISTRIBUTED.NUM_PROC_PER_NODE", int, at_least=1),
    _Key("config.DISTRIBUTED.INIT_METHOD", str, choices=("tcp", "env", "file")),
    _Key("config.SLURM.USE_SLURM", bool),
)

NAMES = (
    # Runs that are started one after the other, which the launcher does itself.
    _Name("engine_name", "engine", others=("clusterfit_study",)),
    *(
        _Name(f"{split}.{key}", kind, others)
        for split in _SPLITS
        for key, kind, others in (
            ("DATA_SOURCES", "data source", ()),
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
    for row in (*KEYS, *NAMES):
        place, value = _reach(composed, row.name)
        if value is not _MISSING and place != row.name:
            checked_value(dict, value, place, problems)
        elif value is not _MISSING and isinstance(row, _Key):
            _check(row, value, problems)
    wrong = tuple(problems)
    problems += filter(None, (_unknown(row, composed) for row in NAMES if not _is_said(row.name, wrong)))
    if not problems:
        problems += [*_heads(composed), *_seeds(composed)]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


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
