"""Values as Hydra reads them on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def as_override(key: str, value: Any) -> str:
    """``key=value``; the value may be anything that YAML has, but mappings with keys that are no names."""
    return f"{key}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    return quoted(str(value))


def quoted(text: str) -> str:
    """A text as a value of an override, whatever is in it."""
    # Hydra reads a backslash as such, unless a quotation mark follows.
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"
