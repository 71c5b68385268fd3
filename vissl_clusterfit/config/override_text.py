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
    # A backslash is one, unless it stands before a quotation mark.
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(value))
    return f"'{quoted}'"
