"""Folders on disk that outlive a process: a ``manifest.json`` beside plain ``.npy`` arrays.

All reading and writing of artefacts goes through this module. A file appears in its place whole
(``storage/atomic.py``); the manifest is written last, so a folder with a complete manifest is a complete artefact.
Opening an artefact runs no code: arrays are read by ``storage/untrusted.py``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from vissl_clusterfit.errors import ArtifactError, cannot_write
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.untrusted import UnsafeFileError, json_in, load_array, require_regular

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
_SELF_HASH = "manifest_sha256"
_HASH_BLOCK_BYTES = 1 << 16
_VALUES_AT_ONCE = 1 << 16
# JSON files are manifests and smaller: that of a billion samples has 30 MB.
_MOST_JSON_BYTES, _DEEPEST_JSON = 1 << 27, 64


@dataclass(frozen=True)
class ArtifactPaths:
    """Every folder of one ClusterFit run. The only place that knows their names.

    Attributes:
        output_dir: ``CLUSTERFIT.OUTPUT_DIR``; codebook and labels are below it.
        features_dir: ``CLUSTERFIT.FEATURES.PATH``; one feature store per split is below it.
    """

    output_dir: Path
    features_dir: Path

    def features(self, split: str) -> Path:
        """The feature store of one split."""
        return self.features_dir / split.lower()

    @property
    def codebook(self) -> Path:
        """The codebook; there is one, that of the clustered split."""
        return self.output_dir / "codebook"

    def labels(self, split: str) -> Path:
        """The pseudo-labels of one split."""
        return self.output_dir / "labels" / split.lower()


def also_output_dir(output_dir: str, num_clusters: int) -> str:
    """Where codebook and labels of a further K lie, below ``CLUSTERFIT.OUTPUT_DIR``."""
    return f"{output_dir.rstrip('/')}/also/{num_clusters}"


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any], *, new: bool = False) -> bool:
    """Writes ``content`` as indented JSON with stable key order; see ``whole_files.write_file``."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    return write_file(path, lambda file: file.write((text + "\n").encode()), new=new)


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: of the file.
        needed: keys that it must have.

    Raises:
        ArtifactError: there is no such file, or it holds no JSON object with these keys.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            text = file.read(_MOST_JSON_BYTES + 1)
        if len(text) > _MOST_JSON_BYTES:
            raise ArtifactError(f"{path} is larger than {_MOST_JSON_BYTES} bytes: nothing of ours is.")
        content = json_in(text)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing.") from None
    except (OSError, UnsafeFileError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} must hold a JSON object, found {type(content).__name__}.")
    if lacking := [key for key in needed if key not in content]:
        raise ArtifactError(f"{path} is damaged: it has no {', '.join(lacking)}. Move it away, and start again.")
    if _is_deeper(content, _DEEPEST_JSON):
        raise ArtifactError(f"{path} cannot be read as JSON: it is nested more than {_DEEPEST_JSON} deep.")
    return content


def _is_deeper(content: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper; so deep that what walks through them ends in a RecursionError."""
    level: list[Any] = [content]
    for _ in range(depth):
        level = [
            value
            for of in level
            for value in (of.values() if isinstance(of, dict) else of)
            if isinstance(value, dict | list)
        ]
        if not level:
            return False
    return True


def write_array(path: Path, array: np.ndarray, *, synced: bool = True) -> str:
    """Writes one array as ``.npy``, atomically; see ``whole_files.write_file``.

    Returns:
        The SHA-256 of the file, as hexadecimal text.
    """
    digest = hashlib.sha256()

    array = np.asarray(array, order="C")
    if array.dtype.hasobject:
        raise ValueError("Arrays of Python objects are not written.")

    def write(file: BinaryIO) -> None:
        def write_and_hash(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        write_and_hash(header.getvalue())
        values = array.reshape(-1)
        for start in range(0, len(values), _VALUES_AT_ONCE):
            write_and_hash(values[start : start + _VALUES_AT_ONCE].tobytes())

    write_file(path, write, synced=synced)
    return digest.hexdigest()


def read_array(
    path: Path, *, shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None, mmap: bool = False
) -> np.ndarray:
    """Reads a ``.npy`` file.

    Args:
        path: of the file.
        shape: that the array must have; None for any shape and dtype.
        dtype: that it must have.
        mmap: whether to map it into memory, read-only, where its file system can do so.

    Raises:
        ArtifactError: the file is missing, truncated, holds Python objects, or an array of another shape or dtype.
    """
    try:
        array = load_array(path, mmap=mmap)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing.") from None
    except (OSError, ValueError, MemoryError) as error:
        raise ArtifactError(f"{path} cannot be read as an array: {error}") from None
    if shape is not None:
        require_array(path, array, shape, dtype)
    return array


def require_array(path: Path, array: np.ndarray, shape: tuple[int, ...], dtype: DTypeLike | None) -> None:
    """Checks shape and dtype of the array in a file.

    Raises:
        ArtifactError: they are others.
    """
    if array.shape != shape or array.dtype != dtype:
        raise ArtifactError(f"{path} must hold {shape} of {np.dtype(dtype)}, found {array.shape} of {array.dtype}.")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal text.

    Raises:
        ArtifactError: the file is missing or cannot be read.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            return stream_sha256(file)
    except UnsafeFileError as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}.") from error


def stream_sha256(file: IO[bytes]) -> str:
    """The SHA-256 of what is left to read of an open file, as hexadecimal text."""
    digest = hashlib.sha256()
    while block := file.read(_HASH_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def content_hash(content: object) -> str:
    """The SHA-256 of a value's canonical JSON: equal for equal values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(
    folder: Path, kind: str, inputs: Mapping[str, Any], facts: Mapping[str, Any], *, new: bool = False
) -> bool:
    """Writes ``folder/manifest.json``: what the artefact was made from (``inputs``) and what it is (``facts``).

    The manifest holds the hash of its own content, so that one that was edited is told from one that was written.
    """
    manifest = {"kind": kind, "format": FORMAT_VERSION, "inputs": inputs, **facts}
    return write_json(folder / MANIFEST_NAME, {**manifest, _SELF_HASH: content_hash(manifest)}, new=new)


def read_manifest(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Reads and checks ``folder/manifest.json``.

    Args:
        folder: of the artefact.
        kind: what it must be; anything if None.

    Raises:
        ArtifactError: there is none, it is of another kind, of a newer format than this version knows, or was edited.
    """
    path, what = folder / MANIFEST_NAME, kind or "artefact"
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no {what}: its {MANIFEST_NAME} is missing.")
    manifest = read_json(path)
    version = manifest.get("format")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise ArtifactError(
            f"{folder}: found format {version!r}; this version of vissl-clusterfit reads formats up to "
            f"{FORMAT_VERSION}. Upgrade it: pip install --upgrade vissl-clusterfit."
        )
    if kind is not None and manifest.get("kind") != kind:
        raise ArtifactError(f"{folder} must hold a {kind}, found a {manifest.get('kind')!r}.")
    if not _is_as_written(manifest):
        raise ArtifactError(f"{path} was edited or damaged: it is not what was written. Make the {what} again.")
    if not isinstance(manifest.get("inputs"), dict):
        raise ArtifactError(f"{path} must name the inputs of the {what}.")
    return manifest


def _is_as_written(manifest: dict[str, Any]) -> bool:
    written = manifest.pop(_SELF_HASH, None)
    try:
        return written == content_hash(manifest)
    except ValueError:  # numbers that JSON does not have, and no run wrote
        return False


def remove_manifest(folder: Path) -> None:
    """Takes an artefact back whose files are about to be written over: one with a manifest is whole at every moment.

    Raises:
        ArtifactError: the file system refuses.
    """
    try:
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder / MANIFEST_NAME, error) from error


def has_manifest(folder: Path) -> bool:
    """Whether an artefact was at least begun in ``folder``."""
    return (folder / MANIFEST_NAME).is_file()


# Inputs that artefacts of earlier releases do not name: what they had is not known, and they are taken as they are.
_UNKNOWN_BEFORE = {"batch_size"}
# Inputs that are named only where they are another than what they were before there was a choice.
_NOT_SAID: dict[str, Any] = {"compute": {"precision": "float32", "channels_last": False, "compile": False}}


def require_same_inputs(
    folder: Path,
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    places: str = "CLUSTERFIT.OUTPUT_DIR, CLUSTERFIT.FEATURES.PATH",
    remedy: str = "",
) -> None:
    """Refuses an artefact that was made from other data or settings.

    ``places`` are the settings that name its folder; ``remedy`` stands for the usual one, which may delete the folder.

    Raises:
        ArtifactError: naming every input that differs, with both values, and the remedy.
    """
    if lines := differences(found, expected):
        raise ArtifactError(
            f"{folder} was made from other data or settings:\n{lines}\n"
            + (remedy or f"Undo the change, name another folder ({places}), or move this one away to make it again.")
        )


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """A line for each value that differs between what something was made from and what this run has; "" if none."""
    each = _differences(found, expected)
    return "\n".join(f"  {name}: it was made with {was}, this run has {now}" for name, was, now in each)


def _differences(found: Any, expected: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*found, *expected} - (_UNKNOWN_BEFORE - {*found})):
            was, now = (of.get(key, _NOT_SAID.get(key)) for of in (found, expected))
            yield from _differences(was, now, f"{name}.{key}" if name else str(key))
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for place, (was, now) in enumerate(zip(found, expected, strict=True)):
            yield from _differences(was, now, f"{name}[{place}]")
    elif found != expected:
        yield name, _shorten(found), _shorten(expected)


def _shorten(value: Any, limit: int = 120) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
