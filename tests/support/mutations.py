"""What is done to the bytes of a file, by a few numbers: so a case can be drawn, shrunk, and written down."""

import contextlib
import copy
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

from vissl_clusterfit.storage import artifacts

#: The name of a change, and two numbers that say where and what.
Step = tuple[str, int, int]

_DEEP, _LONG = "DEEP", "LONG"
#: In the place of a value of JSON; the last two are written as what ``json`` would not write.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "0", "../..", "a\0b", "\ud800", "x" * 70_000),
    *([], {}, [[]], [None], ["x"], [1], {"x": 1}, [0] * 1000, _DEEP, _LONG),
)
#: In the place of a number or a word of a text or a header.
TOKENS = (
    b"",
    b"-1",
    b"0",
    b"1",
    b"99999999999999999999",
    b"1e999",
    b"nan",
    b"-0",
    b"9" * 5000,
    b"None",
    b"\xff",
    b"'",
    b"O",
)
BYTES = (0x00, 0xFF, 0x7F, 0x80, 0x0A, 0x20, 0x2C, 0x30)


def _cut(content: bytes, a: int, _: int) -> bytes:
    return content[: a % (len(content) + 1)]


def _flip(content: bytes, a: int, b: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[a % len(changed)] ^= 1 << b % 8
    return bytes(changed)


def _put(content: bytes, a: int, b: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[a % len(changed)] = BYTES[b % len(BYTES)]
    return bytes(changed)


def _erase(content: bytes, a: int, b: int) -> bytes:
    start = a % (len(content) + 1)
    return content[:start] + content[start + 1 + b % 64 :]


def _splice(content: bytes, a: int, b: int) -> bytes:
    """A piece of the file, put in again elsewhere."""
    start, goal = a % (len(content) + 1), b % (len(content) + 1)
    return content[:goal] + content[start : start + 1 + a % 61] + content[goal:]


def _double(content: bytes, _a: int, _b: int) -> bytes:
    return content + content


def _token(content: bytes, a: int, b: int) -> bytes:
    """One of the numbers and words of a text, or of a header, becomes another."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?|[A-Za-z_]{1,30}", content[: 1 << 16]))
    if not found:
        return content
    place = found[a % len(found)]
    return content[: place.start()] + TOKENS[b % len(TOKENS)] + content[place.end() :]


CHANGES: dict[str, Callable[[bytes, int, int], bytes]] = {
    "cut": _cut,
    "flip": _flip,
    "put": _put,
    "erase": _erase,
    "splice": _splice,
    "double": _double,
    "token": _token,
}


def in_bytes(content: bytes, steps: Sequence[Step]) -> bytes:
    """Any file."""
    for name, a, b in steps:
        content = CHANGES[name](content, a, b)
    return content


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, part in inner for found in _places(part, (*place, key)))]


def _changed(value: Any, steps: Sequence[Step]) -> Any:
    for name, a, b in steps:
        places = _places(value)
        place = places[a % len(places)]
        if not place:
            value = VALUES[b % len(VALUES)] if name == "cut" else value
            continue
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        if name in ("erase", "cut"):
            del holder[place[-1]]
        elif name == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[place[-1]]))
        elif name == "double":
            holder[f"{place[-1]}_"] = copy.deepcopy(holder[place[-1]])
        else:
            holder[place[-1]] = copy.deepcopy(VALUES[b % len(VALUES)])
    return value


def _text(value: Any) -> bytes:
    text = json.dumps(value)
    return text.replace(f'"{_DEEP}"', "[" * 100_000).replace(f'"{_LONG}"', "1" * 5000).encode()


def in_json(content: bytes, steps: Sequence[Step]) -> bytes:
    """Values of a JSON file."""
    return _text(_changed(json.loads(content), steps))


def in_json_lines(content: bytes, steps: Sequence[Step]) -> bytes:
    """Values of a file with a line of JSON each."""
    changed = _changed([*map(json.loads, content.splitlines())], steps)
    return b"".join(_text(line) + b"\n" for line in (changed if isinstance(changed, list) else [changed]))


def in_manifest(content: bytes, steps: Sequence[Step]) -> bytes:
    """Values of a manifest that is whole: its hash is that of what it says, as a faulty program would write it."""
    manifest = json.loads(content)
    del manifest["manifest_sha256"]
    manifest = _changed(manifest, steps)
    if isinstance(manifest, dict):
        with contextlib.suppress(ValueError, RecursionError):  # which no program could have written
            manifest["manifest_sha256"] = artifacts.content_hash(json.loads(_text(manifest)))
    return _text(manifest)


def in_gzip(content: bytes, steps: Sequence[Step]) -> bytes:
    """What a gzip file has inside."""
    return gzip.compress(in_bytes(gzip.decompress(content), steps), 1, mtime=0)


def in_zip(content: bytes, steps: Sequence[Step]) -> bytes:
    """What a member of an archive has inside, the archive being whole."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        names = old.namelist()
        chosen = names[steps[0][1] % len(names)] if steps else ""
        # Where there is a pickle, it is what a reader acts on.
        chosen = next((name for name in names if name.endswith("data.pkl") and steps[0][2] % 4), chosen)
        for name in names:
            inside = old.read(name)
            new.writestr(name, in_bytes(inside, steps) if name == chosen else inside)
    return changed.getvalue()
