"""Names and values as a page shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_LONGEST = 300


def shown(text: str) -> str:
    """A name from outside as text that can be shown: what is no valid Unicode or cannot be printed is replaced."""
    known = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    printable = "".join(each if each.isprintable() else "�" for each in known)
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]} …"


def flattened(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as pairs of a name with dots and its value in words."""
    for name, value in values.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and value:
            yield from flattened(value, path)
        else:
            yield path, shown(value if isinstance(value, str) else json.dumps(value))
