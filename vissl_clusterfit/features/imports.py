"""Features that were made elsewhere become a feature store, which refers to their files where these can be mapped."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.features.arrays import named_samples, require_finite, require_rows
from vissl_clusterfit.features.parquet_files import read_table
from vissl_clusterfit.features.rows_files import FLOATS, READERS, RowsFile, needs_pickle, only_key, read_rows
from vissl_clusterfit.features.sample_list import dataset_inputs, names_and_sizes
from vissl_clusterfit.features.store import KIND, FeatureStore
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.artifacts import file_sha256
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.storage.npz_files import load_npz_array, npz_names
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_array, require_regular

logger = logging.getLogger(__name__)

_COPIED_SHARD_BYTES = 1 << 28
_TEXT_LISTS = (".txt", ".csv", ".tsv", ".npy")


def import_features(
    source: np.ndarray | str | Path,
    folder: str | Path,
    *,
    names: Iterable[str] | str | Path | None = None,
    images: str | Path | None = None,
    key: str = "",
    copy: bool = False,
) -> FeatureStore:
    """Makes a feature store of features that one has already.

    A ``.npy``, ``.safetensors`` or ``.pt`` file, or a folder of such, is not copied: the store refers to it, and
    refuses it if it changes. ``.npz``, ``.parquet``, bfloat16 and arrays in memory are copied. Nothing is written
    before all of it is checked. A folder that holds the store of the same features is opened.

    Args:
        source: (N, D) of float16, float32 or float64: an array, a file, or a folder of files of one kind, whose rows
            follow each other in the order of the numbers in their names.
        folder: of the store.
        names: of the samples, in the order of the rows: a sequence, or a file with one name per line (``.txt``), with
            the names in its first column below a header (``.csv``, ``.tsv``), or with an array of them (``.npy``, as
            VISSL's lists of files). If None, those in the only column of text of a ``.parquet`` file, else the numbers
            of the rows. A training on the list takes labels of the same names in the same order.
        images: the folder of the images, where names are paths in it and a training reads it as a folder; then the
            sizes of the files are part of the sample list.
        key: which array of a file with several; or which column.
        copy: copy the rows in any case.

    Returns:
        The store.

    Raises:
        DataError: features or names are not what they must be; the message says which rows.
        ArtifactError: the folder holds other features, or cannot be written.
        MissingDependencyError: what reads the file is not installed.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import import_features
        >>> np.save("features.npy", np.eye(4, 3, dtype=np.float32))
        >>> store = import_features("features.npy", "store", names=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
        >>> store.num_samples, store.dim, store.names[1]
        (4, 3, 'b.jpg')
        >>> store.read(1, 2)
        array([[0., 1., 0.]], dtype=float32)
    """
    folder = artifact_path(str(folder), "folder")
    files = [] if isinstance(source, np.ndarray) else _files(Path(source))
    what = str(source) if files else "features"
    parts, column, mapped = _read(source, files, key)
    for name, rows in parts:
        require_rows(rows, name)
    if len({(rows.shape[1], rows.dtype) for _, rows in parts}) > 1:
        kinds = sorted({f"{rows.shape[1]} columns of {rows.dtype}" for _, rows in parts})
        raise DataError(problem(what, found=f"files of {', '.join(kinds)}", allowed="files of the same width and type"))
    num_rows = sum(len(rows) for _, rows in parts)
    given = column if names is None else _names(names)
    if images is not None:
        if given is None:
            raise DataError(problem("images", found="a folder without names", allowed="names that are paths in it"))
        given = list(names_and_sizes([str(Path(images) / name) for name in given], str(images)))
        missing = [name.rpartition(" ")[0] for name in given if name.endswith(" -1")]
        if missing:
            found = f"{len(missing)} names of no file in {images}, the first is {missing[0]!r}"
            raise DataError(problem("images", found=found, allowed="a folder that holds every image by its name"))
    samples, kept = named_samples(given, num_rows, what, with_sizes=images is not None)
    # What is changed while it is read is of a later time than this.
    before = [file.stat() for file in files]
    # The hash needs one core, the look at the values another.
    with ThreadPoolExecutor(1) as hashing:
        digests = hashing.submit(lambda: [file_sha256(file) for file in files])
        require_finite(parts)
    inputs: dict[str, Any] = {"dataset": dataset_inputs(samples), "key": key}
    inputs["files"] = digests.result() if files else [_array_hash(parts[0][1])]
    refer = bool(files) and not copy and not as_remote(folder) and mapped
    if artifacts.has_manifest(folder):
        manifest = artifacts.read_manifest(folder, KIND)
        artifacts.require_same_inputs(folder, manifest["inputs"], inputs, "folder")
        refers, complete = "shard_rows" in manifest, manifest.get("complete")
        if (refers and not refer) or (not complete and refer != refers):
            found = "refers to your files" if refers else "is to hold a copy of your files"
            raise ArtifactError(f"{folder} {found}, and copy={copy} asks for another store. Name another folder.")
        if complete:
            return FeatureStore.open(folder)
    dim, dtype = parts[0][1].shape[1], str(parts[0][1].dtype)
    if refer:
        sizes, size = [len(rows) for _, rows in parts], max(len(rows) for _, rows in parts)
    else:
        dtype = dtype if dtype == "float16" else "float32"
        sizes, size = None, max(1, _COPIED_SHARD_BYTES // (dim * np.dtype(dtype).itemsize))
    writer = FeatureStoreWriter(folder, inputs, samples, shard_size=size, dtype=dtype, shard_rows=sizes, names=kept)
    writer.begin()
    for number, shard in enumerate(writer.shards()):
        if refer:
            writer.refer(shard, RowsFile.of(files[number], key, before[number], inputs["files"][number]), dim)
        else:
            writer.write(shard, _rows(parts, shard.start, shard.stop), {})
    store = writer.finish()
    done = "refers to" if refer else "holds a copy of"
    logger.info("The store in %s %s %d features of dimension %d.", folder, done, num_rows, dim)
    return store


def _files(source: Path) -> list[Path]:
    """The files of a source, in the order of the numbers in their names."""
    known = [*READERS, ".npz", ".parquet"]
    allowed = f"a file, or a folder of files, of one of {', '.join(known)}"
    if not source.exists():
        raise DataError(problem("source", found=f"{source}, which is not there", allowed=allowed))
    if source.is_file():
        files = [source]
    else:
        files = [source / name for name in sorted(names_in(source), key=_by_number)]
        files = [file for file in files if file.suffix.lower() in known]
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) != 1 or not kinds <= set(known):
        found = f"{source} with {', '.join(sorted(kinds)) or 'none of them'}"
        raise DataError(problem("source", found=found, allowed=allowed))
    if source.is_dir():
        logger.info("Rows are read from %d files, from %s to %s.", len(files), files[0].name, files[-1].name)
    return files


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read(
    source: np.ndarray | str | Path, files: Sequence[Path], key: str
) -> tuple[list[tuple[str, np.ndarray]], list[str] | None, bool]:
    """The rows of each file with what to call it; names in the files, too; and whether all rows are mapped."""
    if isinstance(source, np.ndarray):
        return [("features", source)], None, False
    kind = files[0].suffix.lower()
    if kind == ".parquet":
        read = [_read_parquet(file, key) for file in files]
        named = [names for _, names in read if names is not None]
        joined = [name for names in named for name in names] if len(named) == len(read) else None
        return [(str(file), rows) for file, (rows, _) in zip(files, read, strict=True)], joined, False
    if kind == ".npz":
        return [(str(file), _read_npz(file, key)) for file in files], None, False
    found = [read_rows(file, key) for file in files]
    parts = [(str(file), rows) for file, (rows, _) in zip(files, found, strict=True)]
    return parts, None, all(mapped and rows.dtype.name in FLOATS for rows, mapped in found)


def _read_npz(path: Path, key: str) -> np.ndarray:
    try:
        return load_npz_array(path, only_key(path, key, npz_names(path)))
    except UnsafeFileError as error:
        if "Python objects" in str(error):
            raise needs_pickle(path, "np.savez(path, features=np.asarray(rows, dtype=np.float32))") from None
        raise DataError(f"{path} cannot be read as .npz: {error}.") from None


def _read_parquet(path: Path, key: str) -> tuple[np.ndarray, list[str] | None]:
    """The rows and, where one column alone is of text, the names."""
    table = read_table(path)
    import pyarrow

    kinds = {field.name: field.type for field in table.schema}
    lists = [name for name, kind in kinds.items() if _is_list_of_floats(kind)]
    texts = [
        name for name, kind in kinds.items() if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    ]
    column = table.column(only_key(path, key, lists)).combine_chunks()
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or None in lengths:
        shown = ", ".join(map(str, sorted(lengths, key=str)[:5]))
        raise DataError(problem(str(path), found=f"rows of {shown} values", allowed="rows of the same length"))
    values = column.flatten()
    if values.null_count:
        raise DataError(problem(str(path), found=f"{values.null_count} values that are null", allowed="numbers"))
    rows = values.to_numpy(zero_copy_only=False).reshape(len(column), lengths.pop())
    try:
        return rows, table.column(texts[0]).to_pylist() if len(texts) == 1 else None
    except UnicodeDecodeError as error:
        raise DataError(problem(f"{path}: {texts[0]}", found=str(error), allowed="texts in UTF-8")) from None


def _is_list_of_floats(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and types.is_floating(kind.value_type)


def _rows(parts: Sequence[tuple[str, np.ndarray]], start: int, stop: int) -> np.ndarray:
    """Rows of consecutive parts."""
    found, first = [], 0
    for _, rows in parts:
        low, high = max(start - first, 0), min(stop - first, len(rows))
        if low < high:
            found.append(rows[low:high])
        first += len(rows)
    return np.concatenate(found)


def _array_hash(rows: np.ndarray) -> str:
    import hashlib

    digest = hashlib.sha256(f"{rows.dtype.str} {rows.shape}".encode())
    for start in range(0, len(rows), 1 << 12):
        digest.update(np.ascontiguousarray(rows[start : start + (1 << 12)]).data)
    return digest.hexdigest()


def _names(names: Iterable[str] | str | Path) -> Iterable[str]:
    """Names that were given, or those of a file."""
    if isinstance(names, Mapping):
        raise DataError(problem("names", found="a dictionary", allowed="names in the order of the rows"))
    if not isinstance(names, (str, Path)):
        return [str(name) for name in names]
    return read_name_list(Path(names))


def read_name_list(path: Path) -> list[str]:
    """The names in a ``.txt`` (one per line), ``.csv`` or ``.tsv`` (first column, below a header) or ``.npy`` file.

    Raises:
        DataError: it cannot be read as such.
    """
    kind = path.suffix.lower()
    if kind not in _TEXT_LISTS:
        raise DataError(problem("names", found=str(path), allowed=f"a file of one of {', '.join(_TEXT_LISTS)}"))
    try:
        require_regular(path)
        if kind == ".npy":
            names = load_array(path)
            if names.ndim != 1 or names.dtype.kind not in "USiu":
                raise ValueError(f"an array of {names.dtype} of shape {names.shape}, not of texts of shape (N,)")
            return [str(name) for name in names]
        with path.open(encoding="utf-8", errors="surrogateescape", newline=None if kind == ".txt" else "") as file:
            if kind == ".txt":
                return file.read().removesuffix("\n").split("\n")
            rows = csv.reader(file, delimiter="\t" if kind == ".tsv" else ",")
            return [row[0] for row in rows if row][1:]
    except (OSError, ValueError, MemoryError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a list of names: {error}.") from None
