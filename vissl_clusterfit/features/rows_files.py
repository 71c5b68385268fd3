"""Features in a file of one's own, mapped from disk where its format allows: ``.npy``, ``.safetensors``, ``.pt``.

A store can refer to such a file instead of holding a copy (``features/imports.py``). It is known by its SHA-256. When a
store is opened, a file of the same size and time of change is believed; of another time, it is hashed again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.untrusted import UnsafeFileError, require_regular, require_unpacked

#: What a store keeps rows as; anything else is copied, or refused.
FLOATS = ("float16", "float32", "float64")


def read_rows(path: Path, key: str) -> tuple[np.ndarray, bool]:
    """The array of a file, in whatever shape and dtype, and whether it is mapped from it.

    Args:
        path: ``.npy``, ``.safetensors``, ``.pt`` or ``.pth``.
        key: which of several arrays; "" for the only one.

    Raises:
        DataError: the file cannot be read, needs pickle, or holds several arrays.
    """
    try:
        require_regular(path)
    except UnsafeFileError as error:
        raise DataError(f"{path} cannot be read: it is {error}.") from None
    return READERS[path.suffix.lower()](path, key)


def _read_npy(path: Path, key: str) -> tuple[np.ndarray, bool]:
    _require_no_key(path, key)
    try:
        return artifacts.read_array(path, mmap=True), True
    except ArtifactError as error:
        if "Python objects" in str(error):
            raise needs_pickle(path, "np.save(path, np.asarray(rows, dtype=np.float32))") from None
        raise DataError(f"{error} Save the features with np.save.") from None


def _read_safetensors(path: Path, key: str) -> tuple[np.ndarray, bool]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return _as_numpy(path, file.get_tensor(only_key(path, key, list(file.keys()))), mapped=True)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}.") from None


def _read_torch(path: Path, key: str) -> tuple[np.ndarray, bool]:
    import pickle

    import torch

    try:
        with path.open("rb") as file:
            require_unpacked(file)
        mapped = True
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # it is of the format before 1.6, which cannot be mapped, or damaged
            mapped = False
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise needs_pickle(path, "torch.save(tensor, path)") from None
    except Exception as error:  # of many types, for a file that is damaged
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read by torch.load: {reason}.") from None
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        content = tensors[only_key(path, key, list(tensors))]
    else:
        _require_no_key(path, key)
    if not isinstance(content, torch.Tensor):
        raise DataError(f"{path} must hold a tensor, or a dictionary of tensors; found {type(content).__name__}.")
    return _as_numpy(path, content, mapped=mapped)


def _as_numpy(path: Path, tensor: Any, *, mapped: bool) -> tuple[np.ndarray, bool]:
    tensor = tensor.detach()
    try:
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:  # a few values, repeated without end
            raise TypeError("it holds fewer values than its shape says")
        if str(tensor.dtype) == "torch.bfloat16":  # which NumPy does not have
            return tensor.float().numpy(), False
        return tensor.numpy(), mapped
    except (NotImplementedError, RuntimeError, TypeError) as error:  # sparse, quantized, without data, of 8 bits
        reason = str(error).splitlines()[0].rstrip(".")
        found = f"a tensor of {tensor.dtype} of shape {tuple(tensor.shape)} ({reason})"
        remedy = "Save it by torch.save(tensor.float().contiguous(), path)."
        raise DataError(problem(str(path), found=found, allowed="an array of numbers", remedy=remedy)) from None


READERS: Mapping[str, Callable[[Path, str], tuple[np.ndarray, bool]]] = {
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
}


def needs_pickle(path: Path, how: str) -> DataError:
    """The refusal of a file that only Python's pickle could read."""
    return DataError(
        f"{path} holds Python objects, and reading them could run code: it was not read. Save it by {how}."
    )


def only_key(path: Path, key: str, keys: list[str]) -> str:
    """The array that is meant, of those in a file.

    Raises:
        DataError: there are several and none is named, or the named one is not there.
    """
    if key in keys or (not key and len(keys) == 1):
        return key or keys[0]
    shown = ", ".join(sorted(keys)[:10]) or "none"
    found = f"{key!r}, which is not in {path}" if key else f"{path} with {len(keys)} arrays"
    raise DataError(problem("key", found=found, allowed=f"the name of one array in it ({shown})"))


def _require_no_key(path: Path, key: str) -> None:
    if key:
        raise DataError(problem("key", found=f"{key!r}", allowed=f'"": {path} holds one array without a name'))


@dataclass(frozen=True)
class RowsFile:
    """A file that holds the rows of a shard.

    Attributes:
        path: absolute.
        key: which of its arrays; "" for the only one.
        size: in bytes.
        mtime_ns: when it was last changed.
        sha256: of its bytes.
    """

    path: Path
    key: str
    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, key: str, found: os.stat_result, sha256: str) -> RowsFile:
        """A file as it was found, before it was hashed."""
        return cls(Path(os.path.realpath(path)), key, found.st_size, found.st_mtime_ns, sha256)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], sha256: str) -> RowsFile:
        """From an entry of a manifest."""
        path = Path(str(entry["path"]))
        if path.suffix.lower() not in READERS or not path.is_absolute():
            raise ValueError(f"{path} is no file that a store can refer to")
        return cls(path, str(entry["key"]), int(entry["size"]), int(entry["mtime_ns"]), sha256)

    def as_json(self) -> dict[str, Any]:
        """The entry of a manifest, beside the SHA-256 that it has for every file."""
        return {"path": str(self.path), "key": self.key, "size": self.size, "mtime_ns": self.mtime_ns}


@dataclass(eq=False)
class OpenRows:
    """Rows of a file elsewhere, which is opened when they are first asked for."""

    file: RowsFile
    _rows: np.ndarray | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rows(self, shape: tuple[int, int], dtype: str) -> np.ndarray:
        """The rows, mapped read-only where that can be.

        Raises:
            ArtifactError: the file is missing, or another one than was imported.
        """
        with self._lock:
            if self._rows is None:
                self._rows = self._open(shape, dtype)
        return self._rows

    def _open(self, shape: tuple[int, int], dtype: str) -> np.ndarray:
        path, file = self.file.path, self.file
        remedy = "Put the file back that was imported, or import the features again, into another folder."
        try:
            found = path.stat()
        except OSError as error:
            reason = f"{path}, which holds features of this store, is missing: {error.strerror}"
            raise ArtifactError(f"{reason}. {remedy}") from None
        changed = found.st_size != file.size or (
            found.st_mtime_ns != file.mtime_ns and artifacts.file_sha256(path) != file.sha256
        )
        if changed:
            raise ArtifactError(f"{path} was changed since its features were imported. {remedy}")
        try:
            rows, _ = read_rows(path, file.key)
            artifacts.require_array(path, rows, shape, dtype)
        except (DataError, ArtifactError) as error:
            raise ArtifactError(f"{error} {remedy}") from None
        return rows
