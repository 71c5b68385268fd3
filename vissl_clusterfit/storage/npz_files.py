"""``.npz`` files: the names of their arrays, and one of these, held against what it may unpack to."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from vissl_clusterfit.storage.untrusted import UnsafeFileError, array_in, require_no_bomb

_ENDING = ".npy"
# RuntimeError: it has a password, or is packed in a way that Python does not know.
_DAMAGES = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays.

    Raises:
        UnsafeFileError: the file cannot be read as ``.npz``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(_ENDING) for name in archive.namelist()]
    except _DAMAGES as error:
        raise UnsafeFileError(str(error)) from None


def load_npz_array(path: Path, name: str) -> np.ndarray:
    """The array of a name that the file has.

    Raises:
        UnsafeFileError: it is no array of numbers or texts, is damaged, or would unpack to far more than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [member, *_] = [each for each in archive.infolist() if each.filename.removesuffix(_ENDING) == name]
            require_no_bomb(member.file_size, path.stat().st_size)
            with archive.open(member) as file:
                return array_in(file, member.file_size)
    except _DAMAGES as error:
        raise UnsafeFileError(str(error)) from None
