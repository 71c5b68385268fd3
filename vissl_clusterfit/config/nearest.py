"""The name that was meant: those of a list that are most like the one that was written."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

#: How alike two names are, of 1, where one is worth a proposal: ``num_epoch`` and ``num_epochs`` are 0.95.
_NEAR = 0.6


def nearest(name: str, names: Iterable[str], cutoff: float = _NEAR) -> list[str]:
    """The most alike ones, whatever their case; those in another folder whose last part is alike, if there are none."""
    names = sorted(set(names))

    def alike(part: Callable[[str], str]) -> list[str]:
        parts: dict[str, list[str]] = {}
        for each in names:
            parts.setdefault(part(each.lower()), []).append(each)
        near = difflib.get_close_matches(part(name.lower()), parts, 3, cutoff)
        return [each for like in near for each in parts[like]]

    return (alike(str) or alike(lambda text: text.rpartition("/")[2]))[:3]


def proposal(names: Iterable[str]) -> str:
    """The question that ends a message; nothing where there is no name to propose."""
    names = list(names)
    return f"Did you mean {' or '.join(names)}?" if names else ""
