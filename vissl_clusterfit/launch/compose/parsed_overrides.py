"""The arguments of a command as Hydra reads them, or what is wrong with one and how it is written.

Hydra's grammar gives a meaning to ``=``, brackets and commas inside a value, and its own messages say only at which
character it stopped. Here the message names the argument and the same argument in quotes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from vissl_clusterfit.config.override_text import as_override
from vissl_clusterfit.errors import ConfigError, problem

_FORM = "key=value, without spaces around the ="


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Reads overrides as Hydra does.

    Raises:
        ConfigError: one is none, or none or several choose the config.
    """
    parsed = []
    for number, text in enumerate(overrides):
        override = _parse(text)
        if override is None:
            raise ConfigError(_unreadable(overrides, number))
        if not override.key_or_group:
            raise ConfigError(problem(repr(text), found="no key", allowed="key=value"))
        parsed.append(override)
    configs = [override.input_line for override in parsed if override.key_or_group == "config"]
    if len(configs) != 1:
        raise ConfigError(
            problem(
                "The command",
                found=f"{len(configs)} configs: {' '.join(configs)}" if configs else "no config",
                allowed="config=<name>, for example config=clusterfit/quickstart/teacher",
                remedy="One is laid over another as a group: config=<name> +config/clusterfit=student." * bool(configs),
            )
        )
    return parsed


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> Override | None:
    """The same for a text that was read before: a command reads its arguments twice, and many have the same."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _unreadable(overrides: Sequence[str], number: int) -> str:
    text = overrides[number]
    key, equals, value = text.partition("=")
    if not equals:
        return problem(repr(text), found="no =", allowed=_FORM, remedy=_meant(_joined(overrides, number)))
    if "." in key and re.search(r"[ ,]", key.strip()):
        return problem(
            key,
            found="a space or a comma in a key",
            allowed="a mapping as the value of the key above it, which takes such names",
            remedy=_meant(_nested(key.strip(), value.strip())),
        )
    if key != key.strip() or value != value.strip():
        return problem(repr(text), found="spaces around the =", allowed=_FORM, remedy=_meant(_quoted(key, value)))
    return problem(
        key,
        found=f"{value}, where a character has a meaning in Hydra's grammar",
        allowed="a value in quotes, where it holds one of = ( ) { } [ ] , : ; & # ! ~ or a letter with an accent",
        remedy=_meant(_quoted(key, value)),
    )


def _joined(overrides: Sequence[str], number: int) -> str:
    """The override that a shell has cut at its spaces; empty where there is none."""
    before, text, after = overrides[:number], overrides[number], overrides[number + 1 :]
    if before and before[-1].endswith("="):
        return before[-1] + text
    if after and after[0].startswith("="):
        return text + "".join(after[: 2 if after[0] == "=" else 1])
    return ""


def _quoted(key: str, value: str) -> str:
    """The override that Hydra takes with this value, or with each of this list in quotes; empty if there is none."""
    key, value = key.strip(), value.strip()
    as_list = re.fullmatch(r"\[(.*)\]", value)
    items = [item.strip().strip("'\"") for item in as_list[1].split(",")] if as_list else value.strip("'\"")
    plain = f"{key}={value}"
    return plain if _parse(plain) else as_override(key, items) if _parse(as_override(key, items)) else ""


def _nested(key: str, value: str) -> str:
    """The override of the last key without such a name, with mappings down to the value; empty if Hydra takes none."""
    parts = key.split(".")
    above = next(number for number, part in enumerate(parts) if re.search(r"[ ,]", part))
    for part in reversed(parts[above:]):
        value = "{" + part.replace(",", "\\,") + ":" + value + "}"
    override = f"{'.'.join(parts[:above])}={value}"
    return override if _parse(override) else ""


def _meant(override: str) -> str:
    return f'Write it as "{override}", with these quotes.' if override else ""
