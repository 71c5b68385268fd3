"""MATLAB files of publishers, with one message for what they lack."""

from __future__ import annotations

import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.storage.untrusted import UnsafeFileError

# "MAT-File Level 5 File Format" of MathWorks.
_HEADER_BYTES = 128
_BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _PACKED = 14, 15
_SPARSE, _LAST_WITH_SHAPE = 5, 15
#: Lists of publishers have a few megabytes.
_MOST_BYTES = 1 << 28
_DEEPEST = 50
_READ = """
import pickle, sys
from scipy.io import loadmat

path, *names = sys.argv[1:]
found = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=names)
sys.stdout.buffer.write(pickle.dumps({name: found[name] for name in names if name in found}))
"""


def read_matlab(path: Path, *names: str) -> list[np.ndarray]:
    """The variables ``names`` of a file, one-dimensional; records have their fields as attributes.

    Raises:
        DataError: the file is damaged or missing, or lacks one of them.
    """
    try:
        _require_no_bomb(path)
        content = _loaded(path, names)
    except Exception as error:  # of many types, for a file that is damaged
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}.") from None
    lacking = [name for name in names if name not in content]
    if lacking:
        raise DataError(f"{path}: found no {', '.join(lacking)}; expected: {', '.join(names)}.")
    return [np.atleast_1d(content[name]) for name in names]


def _loaded(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """What SciPy reads, in a process of its own: of a damaged file in a few hundred, its reader ends the process.

    Raises:
        DataError: it cannot, with what it says last.
    """
    # Nothing is imported from the folder that it happens to run in.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", _READ, str(path), *names]
    ended = subprocess.run(command, capture_output=True, check=False, env=environment)
    if ended.returncode < 0:
        raise DataError(f"SciPy's reader was ended by {signal.Signals(-ended.returncode).name}")
    if ended.returncode:
        raise DataError(ended.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    found: dict[str, Any] = pickle.loads(ended.stdout)  # of that process, not of the file
    return found


def column(path: Path, records: np.ndarray, field: str) -> list[Any]:
    """One field of all records.

    Raises:
        DataError: a record lacks it.
    """
    try:
        return [getattr(record, field) for record in records]
    except AttributeError:
        raise DataError(f"{path}: found records without {field}; expected it in each.") from None


def _require_no_bomb(path: Path) -> None:
    """Refuses what SciPy would take all memory for: much that is packed, or shapes of more values than there are bytes.

    Raises:
        UnsafeFileError: the file is of that kind.
    """
    content = path.read_bytes()
    order = _BYTE_ORDERS.get(content[_HEADER_BYTES - 2 : _HEADER_BYTES])
    if order is None:  # of another level, which SciPy reads as it is or not at all
        return
    room = _MOST_BYTES
    for kind, data in _elements(memoryview(content)[_HEADER_BYTES:], order):
        if kind == _PACKED:
            unpacked = zlib.decompressobj().decompress(data, room + 1)
            room -= len(unpacked)
            if room < 0:
                raise UnsafeFileError(f"{len(content)} bytes that unpack to more than {_MOST_BYTES}")
            for inner, inside in _elements(memoryview(unpacked), order):
                _require_shapes(inner, inside, order, _DEEPEST)
        else:
            _require_shapes(kind, data, order, _DEEPEST)


def _require_shapes(kind: int, data: memoryview, order: str, levels: int) -> None:
    """Looks through a matrix and those inside: each value, cell or record of one takes at least a byte of it."""
    if kind != _MATRIX or not data:
        return
    if not levels:
        raise UnsafeFileError(f"more than {_DEEPEST} levels of cells and records")
    parts = list(_elements(data, order))
    flags, shape = [bytes(inside) for _, inside in (*parts, (0, b""), (0, b""))[:2]]
    number = struct.unpack_from(f"{order}I", flags)[0] & 0xFF if len(flags) >= 4 else 0
    dimensions = struct.unpack(f"{order}{len(shape) // 4}i", shape[: len(shape) // 4 * 4])
    if number <= _LAST_WITH_SHAPE and number != _SPARSE and math.prod(map(abs, dimensions)) > len(data):
        raise UnsafeFileError(f"an array of shape {dimensions} in {len(data)} bytes")
    for inner, inside in parts[2:]:
        _require_shapes(inner, inside, order, levels - 1)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The parts of a file or of a matrix: the number of their type, and their bytes."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # a small one, whose bytes stand in the place of its size
            yield kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)]
            place += 8
        else:
            yield kind, data[place + 8 : place + 8 + size]
            place += 8 + size + (-size % 8 if kind != _PACKED else 0)
