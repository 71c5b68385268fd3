"""Arrays of another file system as if they were mapped from a disk: each is fetched once, and checked.

Clustering reads features again in every iteration, a part of a shard at a time.
"""

from __future__ import annotations

import math
import tempfile
import threading
from dataclasses import dataclass
from typing import IO

import numpy as np

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.remote import RemotePath


@dataclass(frozen=True)
class _Copy:
    """Where the values of an array are in the file of the copies, and what they are."""

    offset: int
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


class LocalCopies:
    """Copies of arrays in one nameless file, which ends with this object or its process, whoever kills it.

    A copy is known by the SHA-256 of its bytes, so that an array that was made again is not taken for the older one.
    Copies are where Python puts temporary files (TMPDIR).
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (it is closed with this object)
        self._copies: dict[str, _Copy] = {}
        self._lock = threading.Lock()

    def array(self, path: RemotePath, sha256: str) -> np.ndarray:
        """An array that is not empty, mapped read-only.

        Args:
            path: of a ``.npy`` file.
            sha256: what its bytes must be.

        Raises:
            ArtifactError: the file is missing, or another one.
        """
        with self._lock:
            if sha256 not in self._copies:
                self._copies[sha256] = self._fetch(path, sha256)
            copy = self._copies[sha256]
            order = "F" if copy.fortran_order else "C"
            return np.memmap(self._file, copy.dtype, "r", copy.offset, copy.shape, order)  # type: ignore[call-overload]

    def _fetch(self, path: RemotePath, sha256: str) -> _Copy:
        start = self._file.seek(0, 2)
        try:
            path.fetch(self._file)
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing.") from None
        end = self._file.tell()
        self._file.seek(start)
        found = artifacts.stream_sha256(self._file)
        if found != sha256:
            raise ArtifactError(f"{path} is not the file that was written: its SHA-256 is {found}, not {sha256}.")
        self._file.seek(start)
        try:
            np.lib.format.read_magic(self._file)
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(self._file)
        except Exception as error:  # of many types
            raise ArtifactError(f"{path} cannot be read as an array: {error}") from None
        offset = self._file.tell()
        if dtype.hasobject or offset + math.prod(shape) * dtype.itemsize != end:
            raise ArtifactError(f"{path} cannot be read as an array: its header says {shape} of {dtype}.")
        return _Copy(offset, shape, fortran_order, dtype)
