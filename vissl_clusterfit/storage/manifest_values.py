"""What the values of a manifest may be: nothing is made of a number before it is known to be one of a sane size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage.artifacts import MANIFEST_NAME
from vissl_clusterfit.storage.remote import as_remote

# More samples, clusters or dimensions than this no disk holds.
_MOST = 1 << 48
_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class Value:
    """What a value may be.

    Attributes:
        allowed: the same in words.
        holds: of a value as JSON gave it.
    """

    allowed: str
    holds: Callable[[Any], bool]


def whole(least: int = 0, most: int = _MOST) -> Value:
    """A whole number."""
    return Value(f"a whole number, {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) < _MOST) or (type(value) is float and math.isfinite(value))


def one_of(*values: object) -> Value:
    """One of some values, true and 1 told apart."""
    allowed = " | ".join(map(repr, values))
    return Value(allowed, lambda value: any(type(value) is type(one) and value == one for one in values))


def list_of(value: Value, least: int = 0, most: int = _MOST) -> Value:
    """A list of values of one kind."""
    return Value(
        f"a list of {least} or more, each {value.allowed}",
        lambda values: isinstance(values, list) and least <= len(values) <= most and all(map(value.holds, values)),
    )


def mapping_of(value: Value) -> Value:
    """An object whose values are of one kind."""
    return Value(
        f"an object with values that are {value.allowed}",
        lambda values: isinstance(values, dict) and all(map(value.holds, values.values())),
    )


def or_none(value: Value) -> Value:
    """A value or null."""
    return Value(f"{value.allowed}, or null", lambda found: found is None or value.holds(found))


NUMBER = Value("a finite number", _is_number)
TEXT = Value("text", lambda value: isinstance(value, str))
YES_OR_NO = Value("true or false", lambda value: isinstance(value, bool))
OBJECT = Value("an object", lambda value: isinstance(value, dict))
SHA256 = Value(
    "a SHA-256 in hexadecimal",
    lambda value: isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"),
)
HASHES = mapping_of(SHA256)
UNREADABLE = list_of(
    Value(
        "an object with the index and the reason of a sample",
        lambda entry: isinstance(entry, dict) and whole().holds(entry.get("index")) and TEXT.holds(entry.get("reason")),
    )
)


def require_values(
    path: Path, found: Mapping[str, Any], needed: Mapping[str, Value], known: Mapping[str, Value], remedy: str
) -> None:
    """Checks values of a manifest, or of another JSON file.

    Args:
        path: of the file, or the folder of a manifest.
        found: what it holds, or an object in it.
        needed: what must be there.
        known: what may be.
        remedy: what to do about an artefact that does not hold.

    Raises:
        ArtifactError: naming the first value that is missing or not allowed.
    """
    for name, value in {**known, **needed}.items():
        if name in found and not value.holds(found[name]):
            text = repr(found[name])
            shown = text if len(text) <= 80 else f"{text[:79]}…"
            problem = f"{name} is {shown}; allowed: {value.allowed}"
        elif name in needed and name not in found:
            problem = f"{name} is missing"
        else:
            continue
        file = path if path.suffix == ".json" else path / MANIFEST_NAME
        raise ArtifactError(f"{file} is damaged: {problem}. {remedy}")


def require_file_of(path: Path, num_values: int, item_bytes: int, remedy: str) -> None:
    """Checks that an array's file is as large as a number in the manifest says; on this file system alone.

    Raises:
        ArtifactError: it is not, or there is none.
    """
    if as_remote(path):
        return
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path} is missing: {error.strerror}. {remedy}") from None
    if not 0 < size - num_values * item_bytes <= _HEADER_BYTES:
        raise ArtifactError(
            f"{path} has {size} bytes: not those of {num_values} values of {item_bytes} bytes, which the manifest says "
            f"are in it. {remedy}"
        )
