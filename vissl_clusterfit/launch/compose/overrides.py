"""From overrides to one config, or to the name that was meant: nothing that is misspelt is taken for something new.

Hydra takes ``+config/typo=x`` for a key of that name, and VISSL never reads a key that it does not know. Here
a config, a group or a key that does not exist is refused with the nearest one that does. A key that a file or
``+key=…`` adds is the user's own, and stays, unless it is one or two letters away from a key that is there beside it:
then it is refused, too, and ``++key=…`` insists.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vissl.config
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vissl_clusterfit.errors import ConfigError, problem

#: How alike two names are, of 1, where one must be meant for the other: ``num_epoch`` and ``num_epochs`` are 0.95.
#: None of VISSL's own configs has a key that comes as near to another one.
_TOO_NEAR = 0.85
#: The same where a name is only proposed.
_NEAR = 0.6
#: Blocks whose unknown keys are refused where they are read.
_CHECKED_ELSEWHERE = ("config.CLUSTERFIT", "config.TRANSFER", "config.TUNE", "config.VIDEO_ACCURACY")
_SELECTING_KEYS = ("name", "names", "NAME")


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Reads overrides as Hydra does.

    Raises:
        ConfigError: one is none.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(f"The config cannot be composed: {error}") from None
    for override in parsed:
        if not _key(override):
            raise ConfigError(problem(repr(override.input_line), found="no key", allowed="key=value"))
    return parsed


def compose_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """VISSL's whole config from the overrides of a command line, as plain dictionaries and lists.

    Raises:
        ConfigError: a config that does not exist or is no YAML, a key that is unknown or all but certainly misspelt, an
            interpolation that leads nowhere, a value that is missing (``???``), or whatever else Hydra refuses.
    """
    try:
        composed = _compose(parse_overrides(overrides))
        OmegaConf.resolve(composed)
        plain = OmegaConf.to_container(composed, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"The config cannot be composed: {error}") from None
    for key, value in _made_by_tags(plain):
        allowed = "a text, a number, true, false or null"
        raise ConfigError(problem(key, found=f"{value!r}, made by a tag (!!) of a YAML file", allowed=allowed))
    return plain


def _made_by_tags(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values that OmegaConf lets a file make, and VISSL does not expect: paths, bytes."""
    if isinstance(value, (Mapping, list)):
        for name, inside in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _made_by_tags(inside, f"{key}.{name}" if key else str(name))
    elif not isinstance(value, (str, int, float, type(None))):
        yield key, value


def _compose(parsed: Sequence[Override]) -> DictConfig:
    overrides = [override.input_line for override in parsed]
    with initialize_config_module(config_module=vissl.config.__name__, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        # Hydra's own, which knows the places of hydra.searchpath, too; there is no public way to it.
        _, repository = loader._parse_overrides_and_create_caching_repo("defaults", overrides)
        _require_groups(parsed, repository)
        # What configs say before any key is set: groups, and where Hydra looks for them.
        files = [override for override in parsed if "." not in _key(override) or _key(override).startswith("hydra.")]
        try:
            base = compose("defaults", overrides=[override.input_line for override in files])
        except MissingConfigException as error:
            raise _missing_config(error, parsed, repository) from None
        try:
            composed = compose("defaults", overrides=overrides)
        except ConfigCompositionException:
            _require_keys(parsed, base)
            raise
    _refuse_near_keys(parsed, base, composed)
    return composed


def _key(override: Override) -> str:
    return override.key_or_group


def _require_groups(parsed: Iterable[Override], repository: Any) -> None:
    for override in parsed:
        if "/" in _key(override) and not repository.group_exists(_key(override)):
            near = _nearest(_key(override), _groups(repository))
            raise ConfigError(
                problem(
                    override.input_line,
                    found=f"the group {_key(override)}, which does not exist",
                    allowed="a folder of configs, such as +config/clusterfit=student",
                    remedy=_proposal(f"+{name}=…" for name in near),
                )
            )


def _missing_config(error: MissingConfigException, parsed: Iterable[Override], repository: Any) -> ConfigError:
    missing = error.missing_cfg_file
    if not isinstance(missing, str):
        return ConfigError(f"The config cannot be composed: {error}")
    names = [name for group in _groups(repository) for name in _configs(repository, group)]
    near = _nearest(missing, names)
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
                    remedy=_proposal(f"{plus}{group}={name}" for name in inside),
                )
            )
    said = str(error).splitlines()[0].rstrip(".")
    return ConfigError(f"The config cannot be composed: {said}. {_proposal(near)}".rstrip())


def _groups(repository: Any, group: str = "config") -> Iterator[str]:
    yield group
    for name in repository.get_group_options(group, results_filter=ObjectType.GROUP):
        yield from _groups(repository, f"{group}/{name}")


def _configs(repository: Any, group: str) -> list[str]:
    return [f"{group}/{name}" for name in repository.get_group_options(group, results_filter=ObjectType.CONFIG)]


def _require_keys(parsed: Iterable[Override], base: DictConfig) -> None:
    """Refuses the first override of a key that is not there."""
    tree = _tree(base)
    for override in parsed:
        if override.type not in (OverrideType.CHANGE, OverrideType.DEL) or "/" in _key(override):
            continue
        missing = next(filter(None, (_first_missing(key, tree) for key in _keys(override))), None)
        if missing is None or any(_key(other).startswith(missing.path) for other in parsed if other.is_add()):
            continue
        near = [f"{missing.parent}{name}" for name in _nearest(missing.name, missing.siblings)]
        whole = [path for path, _ in _leaves(tree)]
        raise ConfigError(
            problem(
                override.input_line,
                found=f"{missing.path}, a key that does not exist",
                allowed="a key that the config has; +key=… adds another",
                remedy=_proposal(near or _same_leaf(_key(override), whole) or _nearest(_key(override), whole)),
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
    tree, insisted = _tree(base), []
    for override in parsed:
        if override.type is OverrideType.FORCE_ADD:
            insisted.append(_key(override))
        elif override.type is OverrideType.ADD and "/" not in _key(override):
            missing = _first_missing(_key(override), tree)
            if missing is None and "." not in _key(override):  # it is among what the base was composed of
                missing = _Missing([], _key(override), [name for name in tree if name != _key(override)])
            if missing is not None:
                _refuse_if_near(missing, override.input_line)
    for missing in _added(_tree(composed), _vissls_defaults()):
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
    near = _nearest(missing.name, missing.siblings, _TOO_NEAR)
    if near:
        raise ConfigError(
            problem(
                setting,
                found=f"{missing.path}, which nothing reads",
                allowed=f"{missing.parent}{near[0]}",
                remedy=f"If it is a key of your own, insist with ++{missing.path}=…",
            )
        )


@functools.cache
def _vissls_defaults() -> Mapping[Any, Any]:
    return _tree(OmegaConf.load(Path(vissl.config.__file__).with_name("defaults.yaml")))


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


def _nearest(name: str, names: Iterable[str], cutoff: float = _NEAR) -> list[str]:
    """The most alike ones, whatever their case; those in another folder whose last part is alike, if there are none."""
    names = sorted(set(names))

    def nearest(part: Any) -> list[str]:
        parts: dict[str, list[str]] = {}
        for each in names:
            parts.setdefault(part(each.lower()), []).append(each)
        alike = difflib.get_close_matches(part(name.lower()), parts, 3, cutoff)
        return [each for like in alike for each in parts[like]]

    return (nearest(str) or nearest(lambda text: text.rpartition("/")[2]))[:3]


def _proposal(names: Iterable[str]) -> str:
    names = list(names)
    return f"Did you mean {' or '.join(names)}?" if names else ""
