"""The one way in which files of data and labels from anywhere are opened: nothing in them runs, or fills the memory.

A ``.npy`` file is an array of numbers or texts, and its header is checked before anything is made of it. A pickle
may hold lists, dictionaries, texts, numbers and arrays of numbers; whatever else it asks for is refused, not called.
For checkpoints PyTorch has a reader of this kind; ``compat/checkpoints.py`` says what they may hold.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import pickle
import stat
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

import vissl_clusterfit.compat.checkpoints as stand_ins
from vissl_clusterfit.storage.remote import as_remote

_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_KINDS = "biufcUSmM"
_MOST_TRIES = 9
#: How many times its size a file of data may unpack to, and how many bytes any file may.
_MOST_TIMES = 100
_ANY_MAY = 1 << 30
# The third differs from the second in the names of fields, which no array of ours has.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


class UnsafeFileError(ValueError):
    """A file that is not what its reader takes; the text is what is wrong, without the name of the file."""


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuses a pipe, a socket or a device: opening or reading one would wait, or go on, without end.

    Raises:
        UnsafeFileError: it is one.
    """
    if "://" in str(path):
        return
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # opening it says why
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise UnsafeFileError(f"{kind}, not a file")


def require_no_bomb(unpacked: int, packed: int, *, times: int = _MOST_TIMES) -> None:
    """Refuses what is made to fill memory or disk: zeros pack a thousandfold, data do not.

    Args:
        unpacked: bytes, as far as they are known.
        packed: bytes of the file that they are in.
        times: how much larger ``unpacked`` may be, where it is above a gigabyte.

    Raises:
        UnsafeFileError: they are more.
    """
    if unpacked > max(_ANY_MAY, times * packed):
        raise UnsafeFileError(f"{packed} bytes that unpack to {unpacked} or more, as no file of data does")


def is_archive(file: IO[bytes] | Path) -> bool:
    """Whether a file ends as a zip archive does; one that ends as part of several is none."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # by Python 3.11 and older
        return False


def require_unpacked(file: IO[bytes]) -> None:
    """Refuses a checkpoint with packed members: PyTorch writes them as they are. The file is at its beginning again.

    Raises:
        UnsafeFileError: it would unpack to more than its size.
    """
    size = file.seek(0, os.SEEK_END)
    if is_archive(file):
        try:
            with zipfile.ZipFile(file) as archive:
                require_no_bomb(sum(member.file_size for member in archive.infolist()), size, times=1)
        except zipfile.BadZipFile as error:
            raise UnsafeFileError(str(error)) from None
    file.seek(0)


def load_array(path: Path, *, mmap: bool = False) -> np.ndarray:
    """Reads a ``.npy`` file; mapped into memory, read-only, when ``mmap`` is set and its file system can do so.

    Raises:
        UnsafeFileError: it is no array of numbers or texts, or is cut off.
        OSError: it cannot be read.
    """
    require_regular(path)
    with path.open("rb") as file:
        if mmap and not as_remote(path):
            shape, column_order, dtype = _header(file)
            order = "F" if column_order else "C"
            try:
                return np.memmap(file, dtype=dtype, shape=shape, order=order, mode="r", offset=file.tell())  # type: ignore[call-overload]
            except OSError as error:
                if error.errno != errno.ENODEV:  # what a file system says that cannot map files
                    raise
            file.seek(0)
        array = array_in(file)
    array.flags.writeable = not mmap
    return array


def array_in(file: IO[bytes], size: int | None = None) -> np.ndarray:
    """The array in an open ``.npy`` file, which can be sought in.

    Args:
        file: at its beginning.
        size: of the file in bytes, where asking it for its end would mean to unpack it.

    Raises:
        UnsafeFileError: it is no array of numbers or texts, or is cut off.
    """
    _header(file, size)
    file.seek(0)
    return _parsed(lambda: np.lib.format.read_array(file, allow_pickle=False), file)


def _parsed(parse: Callable[[], Any], file: IO[bytes]) -> Any:
    """What ``parse`` gives, which reads a header at the place where the file is.

    Python 3.11 mixes up its parser's state where threads parse at a time (python/cpython#106905): that is tried again.
    """
    start = file.tell()
    for _ in range(_MOST_TRIES):
        with contextlib.suppress(SystemError):
            return parse()
        file.seek(start)
    return parse()


def _header(file: IO[bytes], size: int | None = None) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The header of a ``.npy`` file, held against what the file has; the file is then at its first value."""
    magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic != np.lib.format.MAGIC_PREFIX:
        raise UnsafeFileError(f"{_kind_of(magic)}, not a NumPy array (.npy)")
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        shape, column_order, dtype = _parsed(lambda: _HEADERS[version](file), file)
    except Exception as error:  # of many types: ValueError, SyntaxError, TokenError, MemoryError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsafeFileError(f"a damaged NumPy array: {reason}") from None
    if dtype.hasobject:
        raise UnsafeFileError("an array of Python objects, whose reading could run code")
    if dtype.kind not in _KINDS or min(shape, default=0) < 0 or bool in map(type, shape):
        raise UnsafeFileError(f"an array of {dtype} of shape {shape}")
    start = file.tell()
    there = (file.seek(0, os.SEEK_END) if size is None else size) - start
    file.seek(start)
    count = math.prod(shape)
    if count * dtype.itemsize > there or (count and not dtype.itemsize):
        wanted = f"{dtype} of shape {shape}, {count * dtype.itemsize} bytes"
        raise UnsafeFileError(f"an array that is cut off: {wanted} by its header, {there} bytes in the file")
    return shape, column_order, dtype


def load_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UnsafeFileError: it holds no JSON, or what Python takes none of: thousands of levels, or of digits.
        OSError: it cannot be read.
    """
    require_regular(path)
    return json_in(path.read_bytes())


def json_in(text: str | bytes) -> Any:
    """The value of a text in JSON.

    Raises:
        UnsafeFileError: as :func:`load_json`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(str(error)) from None


def _kind_of(beginning: bytes) -> str:
    if not beginning:
        return "an empty file"
    for signature, kind in {
        b"PK\x03\x04": "an archive (.npz, .zip)",
        b"\x89PNG": "a picture (PNG)",
        b"\xff\xd8\xff": "a picture (JPEG)",
        b"GIF8": "a picture (GIF)",
        b"\x1f\x8b": "a compressed file (gzip)",
        b"\x80": "a pickle",
    }.items():
        if beginning.startswith(signature):
            return kind
    return "text" if beginning.isascii() and beginning.decode().replace("\n", "").isprintable() else "an unknown file"


def load_plain_pickle(file: IO[bytes]) -> Any:
    """Reads a pickle of lists, dictionaries, texts, numbers and arrays of numbers; old ones (Python 2), too.

    Raises:
        UnsafeFileError: it is damaged, or asks for anything else.
    """
    content = io.BytesIO(file.read())
    try:
        return _PlainUnpickler(content, encoding="latin1").load()
    except Exception as error:  # a pickle that is damaged may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsafeFileError(f"no pickle of lists, texts and arrays of numbers: {reason}") from None


class _Named:
    """What a pickle may call. It may do nothing else with it: the state that it could give a function is refused."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, _: Any) -> None:
        raise pickle.UnpicklingError("it gives a state to a function")


def _encoded(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which protocol 2 of Python 3 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _number(number_type: stand_ins.NumberType, data: bytes | str) -> Any:
    # In a pickle of Python 2, bytes are texts.
    return stand_ins.number(number_type, data.encode("latin1") if isinstance(data, str) else data)


def _from_bytes(data: bytes, number_type: stand_ins.NumberType, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Stands for ``_frombuffer``, by which protocol 5 writes arrays."""
    array = stand_ins.NumberArray()
    array.__setstate__((1, shape, number_type, order == "F", bytes(data)))
    return array


def _only_named(*_: Any) -> Any:
    raise pickle.UnpicklingError("it calls numpy.ndarray, which may lay an array over any memory")


_ALLOWED: dict[tuple[str, str], _Named] = {
    ("collections", "OrderedDict"): _Named(OrderedDict),
    ("_codecs", "encode"): _Named(_encoded),
    ("numpy", "dtype"): _Named(stand_ins.NumberType),
    ("numpy", "ndarray"): _Named(_only_named),
    **{(core, "_reconstruct"): _Named(stand_ins.NumberArray) for core in _NUMPY_CORES},
    **{(core, "scalar"): _Named(_number) for core in _NUMPY_CORES},
    **{(core.replace("multiarray", "numeric"), "_frombuffer"): _Named(_from_bytes) for core in _NUMPY_CORES},
}


class _PlainUnpickler(pickle._Unpickler):  # the one in C takes whatever memory a file asks for
    def load_bytearray8(self) -> None:
        """The method of Python's makes room for as many bytes as the file says, before it reads them."""
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.append(bytearray(self.read(size)))  # type: ignore[attr-defined]

    dispatch: ClassVar[Any] = {**pickle._Unpickler.dispatch}
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
