"""Settings as frozen dataclasses: a field with what it may be, and the reading of a block of a config into them.

A key of the YAML is the name of the field in upper case. Everything wrong in a block is said in one message.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, TypeVar

from vissl_clusterfit.errors import ConfigError, problem

Settings = TypeVar("Settings")


def setting(
    default: Any,
    *,
    choices: Sequence[Any] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    words: Mapping[str, Any] | None = None,
    alias: str = "",
) -> Any:
    """A field of a settings dataclass: its default, and what it may be.

    Args:
        default: its value where a config has none.
        choices: all values that it may have.
        at_least, at_most: bounds of a number, or of each number of a tuple, which then has one or more.
        above: a lower bound that is not allowed itself; infinity is not, either.
        words: texts that a config may have instead, with the value that each stands for.
        alias: another key of it.
    """
    limits: dict[str, Any] = {"choices": tuple(choices), "at_least": at_least, "at_most": at_most, "above": above}
    limits["words"] = words
    metadata = {"limits": limits, "alias": alias}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def read_settings(cls: type[Settings], block: object, name: str) -> Settings:
    """Reads a frozen dataclass from the mapping ``block``; ``name`` is its place in the config, for messages.

    Raises:
        ConfigError: naming every unknown key and every bad value at once.
    """
    problems: list[str] = []
    settings = _read(cls, block, name, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def _read(cls: type, block: object, name: str, problems: list[str]) -> Any:
    """What is wrong is appended to ``problems``; the result is only of use where nothing was."""
    if not isinstance(block, Mapping):
        problems.append(problem(name, found=repr(block), allowed="a mapping"))
        return None
    types = typing.get_type_hints(cls)
    fields = {entry.name.upper(): entry for entry in dataclasses.fields(cls)}
    aliases = {entry.metadata["alias"] for entry in fields.values() if entry.metadata.get("alias")}
    for key in block:
        if key not in fields and key not in aliases:
            near = difflib.get_close_matches(str(key).upper(), fields, n=1)
            hint = f"Did you mean {near[0]}?" if near else "Remove it."
            problems.append(problem(f"{name}.{key}", found="an unknown key", allowed=", ".join(fields), remedy=hint))
    values = {}
    for key, entry in fields.items():
        alias = entry.metadata.get("alias")
        given = [name for name in (key, alias) if name in block]
        if not given:
            continue
        if len(given) == 2 and block[key] != block[alias] != entry.default:
            found = f"{block[key]!r}, and {name}.{alias} {block[alias]!r}"
            problems.append(problem(f"{name}.{key}", found=found, allowed="one value: both keys are the same setting"))
        key = given[0]
        if dataclasses.is_dataclass(types[entry.name]):
            values[entry.name] = _read(types[entry.name], block[key], f"{name}.{key}", problems)
        else:
            kind = types[entry.name]
            values[entry.name] = checked_value(
                kind, block[key], f"{name}.{key}", problems, **entry.metadata.get("limits", {})
            )
    if problems:
        return None
    try:
        return cls(**values)
    except ConfigError as error:  # a settings class that checks itself does not know its place in the config
        problems.append(f"{name}: {error}")
        return None


def checked_value(
    kind: Any,
    value: Any,
    name: str,
    problems: list[str],
    *,
    choices: Sequence[Any] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    words: Mapping[str, Any] | None = None,
) -> Any:
    """The value of a key as its type has it; what is wrong with it is appended to ``problems``.

    Args:
        kind: ``int``, ``float``, ``bool``, ``str``, ``list``, ``tuple`` or ``dict``.
        value: as the config has it; a whole number may stand for a ``float``.
        name: of the key, for messages.
        problems: what was found before.
        choices, at_least, at_most, above, words: as in :func:`setting`.
    """
    if words and isinstance(value, str) and value in words:
        return words[value]
    items = typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            value = float(value)
    if kind in (dict, list, tuple) and isinstance(value, Mapping if kind is dict else (list, tuple)):
        value = kind(value)
    is_chosen = type(value) in map(type, choices) and value in choices
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool) and not is_chosen):
        problems.append(
            problem(name, found=repr(value), allowed=" | ".join([f"a value of type {kind.__name__}", *(words or ())]))
        )
        return None
    limits = [
        f"{words} {limit}"
        for words, limit in (("above", above), ("at least", at_least), ("at most", at_most))
        if limit is not None
    ]

    def fits(number: Any) -> bool:  # NaN does not
        return (
            (at_least is None or number >= at_least)
            and (at_most is None or number <= at_most)
            and (above is None or above < number < math.inf)
        )

    if choices and not is_chosen:
        problems.append(problem(name, found=repr(value), allowed=" | ".join(map(repr, choices))))
    elif limits and kind is tuple:
        types = int if items[0] is int else (int, float)
        numbers = all(isinstance(item, types) and not isinstance(item, bool) for item in value)
        if not value or not numbers or not all(map(fits, value)):
            allowed = f"one or more {'whole numbers' if types is int else 'numbers'} {' and '.join(limits)}"
            problems.append(problem(name, found=repr(list(value)), allowed=allowed))
    elif limits and not fits(value):
        problems.append(problem(name, found=repr(value), allowed=" and ".join(limits)))
    return value
