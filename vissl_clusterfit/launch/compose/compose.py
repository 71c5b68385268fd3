"""From overrides on a command line to the config of a run: composed, checked, completed."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vissl.config import AttrDict
from vissl.utils import hydra_config

from vissl_clusterfit.errors import ConfigError, cannot_write
from vissl_clusterfit.launch.compose.derived import fill_derived
from vissl_clusterfit.launch.compose.early import compose_early
from vissl_clusterfit.launch.compose.from_record import complete_from_record, teacher_of_another_size
from vissl_clusterfit.launch.compose.library_networks import complete_networks
from vissl_clusterfit.launch.compose.quick_yaml import quick_yaml
from vissl_clusterfit.launch.compose.schedules import require_schedules
from vissl_clusterfit.plugin.device import require_device


def compose(overrides: Sequence[str], early: tuple[dict[str, Any], list[str]] | None = None) -> tuple[str, int, Any]:
    """The engine, the number of this node, and VISSL's ``config``, from overrides as on the command line.

    Args:
        overrides: of the command.
        early: what ``compose_early`` gave for them, where that was asked before; it is changed.

    Raises:
        ConfigError: as :func:`~vissl_clusterfit.launch.compose.early.compose_early`; or a GPU where there is none, a
            schedule that does not fit, or what VISSL refuses.
    """
    plain, changes = early or compose_early(overrides)
    require_device(AttrDict(plain["config"]), local=not plain["config"]["SLURM"]["USE_SLURM"])
    changes = [*changes, *complete_from_record(overrides, plain), *complete_networks(overrides, plain)]
    changes += [*teacher_of_another_size(plain["config"]), *fill_derived(plain["config"])]
    try:
        with quick_yaml():
            args = _as_vissl_takes_it(plain)
    except OSError as error:  # VISSL writes the config into the folder of checkpoints
        raise cannot_write(Path(error.filename or plain["config"]["CHECKPOINT"]["DIR"]), error) from None
    except Exception as error:  # whatever it is, VISSL has only followed the values of the config
        place = traceback.extract_tb(error.__traceback__)[-1].name
        said = str(error) if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"VISSL refuses the config: {said.rstrip(': ')} (in {place}).") from None
    if args.engine_name == "train" and not args.config.TEST_ONLY:
        require_schedules(args.config.OPTIMIZER)
    for change in changes:
        print(change)  # noqa: T201  (VISSL sets up its log later, in the processes)
    return args.engine_name, args.node_id, args.config


def _as_vissl_takes_it(plain: dict[str, Any]) -> AttrDict:
    """What VISSL's ``convert_to_attrdict`` does, but for its first step: to make this of a config of OmegaConf's."""
    args = AttrDict(_separate(plain))
    hydra_config.check_cfg_version(args)
    hydra_config.infer_and_assert_hydra_config(args.config)
    hydra_config.save_attrdict_to_disk(args.config)
    hydra_config.convert_fsdp_dtypes(args.config)
    return args


def _separate(value: Any) -> Any:
    """Dictionaries and lists of its own at every place, as YAML would name one that is at two."""
    if isinstance(value, dict):
        return {key: _separate(inside) for key, inside in value.items()}
    return [_separate(inside) for inside in value] if isinstance(value, (list, tuple)) else value
