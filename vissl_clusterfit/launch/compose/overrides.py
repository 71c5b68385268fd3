"""From overrides to one config, or to the name that was meant: nothing that is misspelt is taken for something new.

Hydra takes ``+config/typo=x`` for a key of that name, and VISSL never reads a key that it does not know. Here
a config, a group or a key that does not exist is refused with the nearest one that does. A key that a file or
``+key=…`` adds is the user's own, and stays, unless it is one or two letters away from a key that is there beside it:
then it is refused, too, and ``++key=…`` insists.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vissl.config
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.config.search_path import config_dir
from vissl_clusterfit.config.slurm import with_our_keys
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose.named_networks import name_networks
from vissl_clusterfit.launch.compose.parsed_overrides import parse_overrides
from vissl_clusterfit.launch.compose.quick_yaml import quick_yaml
from vissl_clusterfit.launch.compose.vissl_keys import require_known_values, vissls_defaults
from vissl_clusterfit.launch.compose.workers import find_workers, takes_auto

#: How alike two names are, of 1, where one must be meant for the other: ``num_epoch`` and ``num_epochs`` are 0.95.
#: None of VISSL's own configs has a key that comes as near to another one.
_TOO_NEAR = 0.85
#: Blocks whose unknown keys are refused where they are read.
_CHECKED_ELSEWHERE = ("config.CLUSTERFIT", "config.TRANSFER", "config.TUNE", "config.VIDEO_ACCURACY")
_SELECTING_KEYS = ("name", "names", "NAME")


def compose_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """VISSL's whole config from the overrides of a command line, as plain dictionaries and lists.

    Raises:
        ConfigError: a config that does not exist or is no YAML, a key that is unknown or all but certainly misspelt, an
            interpolation that leads nowhere, a value that is missing (``???``), or whatever else Hydra refuses; a value
            of VISSL's or ours that cannot be.
    """
    try:
        composed = _compose(parse_overrides(with_our_keys(overrides)))
        _require_no_gaps(composed)
        OmegaConf.resolve(composed)
        plain = OmegaConf.to_container(composed, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"The config cannot be composed: {error}") from None
    for key, value in _made_by_tags(plain):
        allowed = "a text, a number, true, false or null"
        raise ConfigError(problem(key, found=f"{value!r}, made by a tag (!!) of a YAML file", allowed=allowed))
    name_networks(plain)
    readers_are_to_be_found = takes_auto(plain["config"])
    require_known_values(plain)
    if readers_are_to_be_found:
        find_workers(plain["config"])
    ClusterFitConfig.from_config(plain["config"])
    return plain


def _made_by_tags(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values that OmegaConf lets a file make, and VISSL does not expect: paths, bytes."""
    if isinstance(value, (Mapping, list)):
        for name, inside in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _made_by_tags(inside, f"{key}.{name}" if key else str(name))
    elif not isinstance(value, (str, int, float, type(None))):
        yield key, value


def compose_file(name: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of one of VISSL's files or ours, unchecked and unresolved; "defaults" is the whole config.

    It is not to be changed: where no files of the user's own are among those that Hydra looks in, the last ones are
    kept, as many commands and many stages of one lay the same groups over each other.
    """
    its_own = Path("configs").exists() and not Path("configs").samefile(config_dir())
    elsewhere = its_own or any(override.startswith("hydra.") for override in overrides)
    return (_composed_file.__wrapped__ if elsewhere else _composed_file)(name, tuple(overrides))


@functools.lru_cache(maxsize=16)
def _composed_file(name: str, overrides: tuple[str, ...]) -> DictConfig:
    with quick_yaml(), initialize_config_module(config_module=vissl.config.__name__, version_base="1.3"):
        return compose(name, overrides=list(overrides))


def _require_no_gaps(composed: DictConfig) -> None:
    gaps = [path for path, value in _leaves(_tree(composed)) if value == "???"]
    if gaps:
        raise ConfigError(
            problem(
                ", ".join(gaps),
                found="nothing (???), which a config leaves to you",
                allowed="a value for each",
                remedy=f"Add to the command: {' '.join(f'{gap}=…' for gap in gaps)}",
            )
        )


def _compose(parsed: Sequence[Override]) -> DictConfig:
    """What Hydra makes of them, in its two steps: what the files say is kept from one command to the next."""
    places = [override.input_line for override in parsed if _key(override).startswith("hydra.")]
    with quick_yaml(), initialize_config_module(config_module=vissl.config.__name__, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        # Hydra's own, which knows the places of hydra.searchpath, too; there is no public way to it.
        _, repository = loader._parse_overrides_and_create_caching_repo("defaults", places)
    _require_groups(parsed, repository)
    chosen: list[Override] = []
    settings: list[Override] = []
    for override in parsed:
        (chosen if _is_of_files(override, repository) else settings).append(override)
    try:
        base = compose_file("defaults", [override.input_line for override in chosen])
    except MissingConfigException as error:
        raise _missing_config(error, parsed, repository) from None
    composed = pickle.loads(pickle.dumps(base))  # in half of the time of a deep copy
    try:
        loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
        loader._apply_overrides_to_config(settings, composed)
    except ConfigCompositionException:
        _require_keys(parsed, _tree(base))
        raise
    _refuse_near_keys(parsed, base, composed)
    return composed


def _is_of_files(override: Override, repository: Any) -> bool:
    """Whether it chooses a config or says where Hydra looks for them; all others are laid over what these give."""
    key, may_be_group = _key(override), not isinstance(override.value(), dict)
    is_group = may_be_group and ("/" in key or "." not in key) and repository.group_exists(key)
    return is_group or key.startswith("hydra.")


def _key(override: Override) -> str:
    return override.key_or_group


def _require_groups(parsed: Iterable[Override], repository: Any) -> None:
    for override in parsed:
        if "/" in _key(override) and not repository.group_exists(_key(override)):
            near = nearest(_key(override), _groups(repository))
            raise ConfigError(
                problem(
                    override.input_line,
                    found=f"the group {_key(override)}, which does not exist",
                    allowed="a folder of configs, such as +config/clusterfit=student",
                    remedy=proposal(f"+{name}=…" for name in near),
                )
            )


def _missing_config(error: MissingConfigException, parsed: Iterable[Override], repository: Any) -> ConfigError:
    missing = error.missing_cfg_file
    if not isinstance(missing, str):
        return ConfigError(f"The config cannot be composed: {error}")
    names = [name for group in _groups(repository) for name in _configs(repository, group)]
    near = nearest(missing, names)
    for override in parsed:
        group = _key(override)
        if isinstance(override.value(), str) and missing == f"{group}/{override.value()}":
            plus = "+" if override.is_add() else ""
            inside = [name.removeprefix(f"{group}/") for name in near if name.startswith(f"{group}/")]
            return ConfigError(
                problem(
                    override.input_line,
                    found="no such config",
                    allowed=f"a config below {group}/ of VISSL, of vissl_clusterfit, or of ./configs",
                    remedy=proposal(f"{plus}{group}={name}" for name in inside),
                )
            )
    said = str(error).splitlines()[0].rstrip(".")
    return ConfigError(f"The config cannot be composed: {said}. {proposal(near)}".rstrip())


def config_names() -> list[str]:
    """What ``config=<name>`` may be: the configs of VISSL, of this package, and of ``./configs``."""
    with initialize_config_module(config_module=vissl.config.__name__, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        _, repository = loader._parse_overrides_and_create_caching_repo("defaults", [])
        return [name.removeprefix("config/") for group in _groups(repository) for name in _configs(repository, group)]


def _groups(repository: Any, group: str = "config") -> Iterator[str]:
    yield group
    for name in repository.get_group_options(group, results_filter=ObjectType.GROUP):
        yield from _groups(repository, f"{group}/{name}")


def _configs(repository: Any, group: str) -> list[str]:
    return [f"{group}/{name}" for name in repository.get_group_options(group, results_filter=ObjectType.CONFIG)]


def _require_keys(parsed: Iterable[Override], tree: Mapping[Any, Any]) -> None:
    """Refuses the first override of a key that is not there."""
    for override in parsed:
        if override.type not in (OverrideType.CHANGE, OverrideType.DEL) or "/" in _key(override):
            continue
        missing = next(filter(None, (_first_missing(key, tree) for key in _keys(override))), None)
        if missing is None or any(_key(other).startswith(missing.path) for other in parsed if other.is_add()):
            continue
        near = [f"{missing.parent}{name}" for name in nearest(missing.name, missing.siblings)]
        whole = [path for path, _ in _leaves(tree)]
        raise ConfigError(
            problem(
                override.input_line,
                found=f"{missing.path}, a key that does not exist",
                allowed="a key that the config has; +key=… adds another",
                remedy=proposal(near or _same_leaf(_key(override), whole) or nearest(_key(override), whole)),
            )
        )


def _keys(override: Override) -> list[str]:
    """The key, and those inside a mapping that is its value."""
    value = override.value()
    inside = _leaves(value, f"{_key(override)}.") if isinstance(value, Mapping) else ()
    return [_key(override), *(key for key, _ in inside)]


class _Missing:
    """The first part of a dotted key that a tree does not have."""

    def __init__(self, parents: Sequence[str], name: str, siblings: Iterable[Any]) -> None:
        self.parent = "".join(f"{parent}." for parent in parents)
        self.name = name
        self.path = self.parent + name
        self.siblings = [str(sibling) for sibling in siblings]


def _first_missing(key: str, tree: Any) -> _Missing | None:
    """None where all parts are there, or what is inside is no mapping."""
    parts = key.split(".")
    for number, part in enumerate(parts):
        if not isinstance(tree, Mapping):
            return None
        if part not in tree:
            return _Missing(parts[:number], part, tree)
        tree = tree[part]
    return None


def _refuse_near_keys(parsed: Sequence[Override], base: DictConfig, composed: DictConfig) -> None:
    """Refuses keys that were added beside a key of nearly the same name."""
    insisted = [_key(override) for override in parsed if override.type is OverrideType.FORCE_ADD]
    added = [override for override in parsed if override.type is OverrideType.ADD and "/" not in _key(override)]
    tree = _tree(base) if added else {}
    for override in added:
        missing = _first_missing(_key(override), tree)
        if missing is not None:
            _refuse_if_near(missing, override.input_line)
    for missing in _added(_tree(composed), vissls_defaults()):
        if not any(f"{key}.".startswith(f"{missing.path}.") for key in insisted):
            _refuse_if_near(missing, missing.path)


def _added(tree: Mapping[Any, Any], known: Mapping[Any, Any], parents: tuple[str, ...] = ()) -> Iterator[_Missing]:
    """The keys that VISSL's defaults do not have, in blocks that they have."""
    if ".".join(parents) in _CHECKED_ELSEWHERE:
        return
    chosen = [tree[key] for key in _SELECTING_KEYS if key in tree]
    selected = {str(name).lower() for names in chosen for name in (names if isinstance(names, list) else [names])}
    for key, value in tree.items():
        if key not in known:
            if str(key).lower() not in selected:  # a block that belongs to the loss, trunk, … that is used
                yield _Missing(parents, str(key), known)
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping):
            yield from _added(value, known[key], (*parents, str(key)))


def _refuse_if_near(missing: _Missing, setting: str) -> None:
    near = nearest(missing.name, missing.siblings, _TOO_NEAR)
    if near:
        raise ConfigError(
            problem(
                setting,
                found=f"{missing.path}, which nothing reads",
                allowed=f"{missing.parent}{near[0]}",
                remedy=f"If it is a key of your own, insist with ++{missing.path}=…",
            )
        )


def _tree(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _leaves(tree: Mapping[Any, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield f"{parent}{key}", value
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{parent}{key}.")


def _same_leaf(key: str, paths: Iterable[str]) -> list[str]:
    """Where a key of that last name is."""
    return [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]][:3]
