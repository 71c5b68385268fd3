"""Labels that were made elsewhere become pseudo-labels, each given to its sample by name."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.features.imports import read_name_list
from vissl_clusterfit.features.parquet_files import read_table
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.sample_names import NAMES_FILE
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.files import (
    DISTANCES_FILE,
    LABELS_FILE,
    MARGINS_FILE,
    SIZES_FILE,
)
from vissl_clusterfit.labels.pseudo_labels import KIND, PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.untrusted import json_in, require_regular

logger = logging.getLogger(__name__)

_SHOWN = 3
_MOST_CLUSTERS = 1 << 24


@dataclass(frozen=True, eq=False)
class _Given:
    """Labels as they came: their names, and what there is for each of them."""

    names: Sequence[str]
    labels: np.ndarray
    distances: np.ndarray | None = None
    margins: np.ndarray | None = None


def import_labels(
    source: np.ndarray | Mapping[str, int] | str | Path,
    folder: str | Path,
    data: FeatureStore | PseudoLabels,
    *,
    names: Iterable[str] | str | Path | None = None,
    num_clusters: int | None = None,
) -> PseudoLabels:
    """Makes pseudo-labels of labels from elsewhere: scikit-learn's, faiss's, a colleague's, or true ones.

    Labels find their samples by name; how they were ordered does not matter. Nothing is written before all is checked.

    Args:
        source: (N,) integers with ``names``, an array or a ``.npy`` file; a dictionary from name to label; or a
            ``.csv``, ``.jsonl`` or ``.parquet`` file with the columns ``name`` and ``label``, and, where they are
            known, ``distance`` and ``margin``, as :func:`vissl_clusterfit.export_labels` writes it. -1 is no label.
        folder: of the pseudo-labels.
        data: what the labels are for: features, or other labels, of the same samples with their names.
        names: of the rows of an array: a sequence, or a file as :func:`vissl_clusterfit.import_features` takes it.
        num_clusters: K; None for the largest label and one.

    Raises:
        DataError: names are missing, unknown or there twice, labels are no integers from -1 to K - 1.
        ArtifactError: the data have no names, or the folder holds other labels.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import import_features, import_labels
        >>> features = import_features(np.eye(3, dtype=np.float32), "features", names=["a.jpg", "b.jpg", "c.jpg"])
        >>> labels = import_labels(np.array([2, 0, 1]), "labels", features, names=["c.jpg", "a.jpg", "b.jpg"])
        >>> np.asarray(labels.labels)
        array([0, 1, 2])
    """
    place = artifact_path(str(folder), "folder")
    wanted = data.names
    if wanted is None:
        raise ArtifactError(
            f"The samples in {data.folder} have no names, so labels could only be given to them in hope of the same "
            "order. Import or extract the features with their names."
        )
    given = _read(source, names)
    _require_labels(given, num_clusters)
    order = _places(given.names, wanted)
    labels = np.asarray(given.labels, dtype=np.int64)[order]
    num_labels = int(labels.max(initial=-1)) + 1 if num_clusters is None else num_clusters
    if num_labels < 1:
        raise DataError(problem("labels", found="no sample with a label", allowed="one or more"))
    without = labels < 0
    known = given.distances is not None and given.margins is not None
    arrays = {LABELS_FILE: labels}
    for name, values, unknown in ((DISTANCES_FILE, given.distances, 0), (MARGINS_FILE, given.margins, 0)):
        column = np.full(len(labels), unknown, dtype=np.float32)
        if known and values is not None:
            column = np.asarray(values, dtype=np.float32)[order]
        elif name == MARGINS_FILE and num_labels == 1:
            column[:] = np.inf
        column[without] = -1
        arrays[name] = column
    _require_distances(arrays[DISTANCES_FILE][~without], arrays[MARGINS_FILE][~without], num_labels)
    arrays[SIZES_FILE] = np.bincount(labels[~without], minlength=num_labels).astype(np.int64)
    arrays[SAMPLES_FILE] = np.asarray(data.samples)
    return _write(place, data, arrays, known)


def _write(place: Path, data: FeatureStore | PseudoLabels, arrays: dict[str, np.ndarray], known: bool) -> PseudoLabels:
    labels, sizes = arrays[LABELS_FILE], arrays[SIZES_FILE]
    dataset = (data.inputs if isinstance(data, FeatureStore) else data.inputs["features"])["dataset"]
    content = artifacts.content_hash(
        {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    )
    inputs = {"features": {"dataset": dataset}, "codebook": {"imported_labels": content}, "max_distance": None}
    if artifacts.has_manifest(place):
        manifest = artifacts.read_manifest(place, KIND)
        artifacts.require_same_inputs(place, manifest["inputs"], inputs, "folder")
        return PseudoLabels.open(place)
    num_without = int((labels < 0).sum())
    num_labelled = len(labels) - num_without
    digests = {name: artifacts.write_array(place / name, array) for name, array in arrays.items()}
    if data.write_names(place):
        digests[NAMES_FILE] = artifacts.file_sha256(place / NAMES_FILE)
    facts = {
        "num_samples": len(labels),
        "num_clusters": [len(sizes)],
        "num_empty_clusters": [int((sizes == 0).sum())],
        "imbalance": [float(sizes.max() * len(sizes) / num_labelled) if num_labelled else 0.0],
        "num_unlabelled": num_without,
        "num_unreadable": num_without,
        "unreadable": [
            {"index": int(index), "reason": "no label was given"} for index in np.flatnonzero(labels < 0)[:1000]
        ],
        "num_too_far": 0,
        "drift": 0.0,
        "imported": True,
        "features_hash": data.content_hash if isinstance(data, FeatureStore) else data.manifest["features_hash"],
        "codebook_hash": content,
        "has_distances": known,
        "sha256": digests,
    }
    artifacts.write_manifest(place, KIND, inputs, facts)
    return PseudoLabels.open(place)


def _require_labels(given: _Given, num_clusters: int | None) -> None:
    labels = given.labels
    allowed = "one integer for each name, from 0, or -1 for none"
    found = ""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        found = f"{labels.shape} of {labels.dtype}"
    elif len(labels) != len(given.names):
        found = f"{len(labels)} labels for {len(given.names)} names"
    elif len(labels) and labels.min() < -1:
        found = f"{int((labels < -1).sum())} labels below -1, the first of {given.names[int(np.argmax(labels < -1))]!r}"
    elif num_clusters is not None and len(labels) and labels.max() >= num_clusters:
        found, allowed = f"the label {labels.max()}", f"-1 to {num_clusters - 1}, as num_clusters is {num_clusters}"
    elif len(labels) and labels.max() >= _MOST_CLUSTERS:  # there is a count of each
        found, allowed = f"the label {labels.max()}", f"-1 to {_MOST_CLUSTERS - 1}"
    if found:
        raise DataError(problem("labels", found=found, allowed=allowed))


def _require_distances(distances: np.ndarray, margins: np.ndarray, num_clusters: int) -> None:
    wrong = {
        "distance": ~(np.isfinite(distances) & (distances >= 0)),
        "margin": (margins != np.inf) if num_clusters == 1 else ~(np.isfinite(margins) & (margins >= 0)),
    }
    for name, where in wrong.items():
        if where.any():
            found = f"{int(where.sum())} values that are no {name}s of labels"
            allowed = "finite numbers, 0 or more" + (", but infinite margins for one cluster" * (name == "margin"))
            raise DataError(problem(name, found=found, allowed=allowed))


def _places(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Where the label of each sample is: (N,) int64.

    Raises:
        DataError: the names are not those of the samples, each once.
    """
    place = {name: number for number, name in enumerate(names)}
    missing = [name for name in wanted if name not in place]
    unknown = sorted(place.keys() - set(wanted)) if len(place) + len(missing) != len(wanted) else []
    twice = len(names) - len(place)
    if not (missing or unknown or twice):
        return np.array([place[name] for name in wanted], dtype=np.int64)
    first = ", ".join(map(repr, (missing or unknown)[:_SHOWN]))
    found = f"{len(missing)} samples without a label, {len(unknown)} labels of no sample, {twice} names there twice"
    remedy = f"The first: {first}." if first else ""
    raise DataError(problem("names", found=found, allowed="the name of each sample, once", remedy=remedy))


def _read(source: np.ndarray | Mapping[str, int] | str | Path, names: Iterable[str] | str | Path | None) -> _Given:
    if isinstance(source, Mapping):
        return _Given(list(map(str, source)), np.asarray(list(source.values())))
    path = None if isinstance(source, np.ndarray) else Path(source)
    kind = ".npy" if path is None else path.suffix.lower()
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    if path is not None and kind in readers:
        try:
            require_regular(path)
            return _from_columns(path, readers[kind](path))
        except (OSError, ValueError, TypeError, OverflowError, csv.Error) as error:
            raise DataError(f"{path} cannot be read as labels: {error}.") from None
    if kind != ".npy":
        raise DataError(problem("source", found=str(path), allowed=f"a file of one of .npy, {', '.join(readers)}"))
    if names is None:
        found, allowed = "labels without names", "the name of each: their order alone says nothing"
        raise DataError(problem("names", found=found, allowed=allowed))
    try:
        labels = np.asarray(source) if path is None else artifacts.read_array(path)
    except ArtifactError as error:
        raise DataError(str(error)) from None
    return _Given(read_name_list(Path(names)) if isinstance(names, (str, Path)) else list(map(str, names)), labels)


def _from_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> _Given:
    lacking = [name for name in ("name", "label") if name not in columns]
    if lacking:
        found = f"{path} without {' and '.join(lacking)} (it has {', '.join(map(str, columns)) or 'nothing'})"
        raise DataError(problem("source", found=found, allowed="the columns name and label, in every row"))
    if not all(isinstance(name, str) for name in columns["name"]):
        raise ValueError("names must be texts")
    labels = [int(label) for label in columns["label"]]
    if any(float(label) != whole for label, whole in zip(columns["label"], labels, strict=True)):
        raise ValueError("labels must be whole numbers")
    numbers = {
        name: np.array([np.inf if value is None else float(value) for value in columns[name]], dtype=np.float32)
        for name in ("distance", "margin")
        if name in columns
    }
    return _Given(
        list(columns["name"]), np.array(labels, dtype=np.int64), numbers.get("distance"), numbers.get("margin")
    )


def _read_csv(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    if len({len(row) for row in rows}) > 1:
        raise ValueError("rows of different lengths")
    return {name: [row[number] for row in rows[1:]] for number, name in enumerate(rows[0] if rows else ())}


def _read_json_lines(path: Path) -> dict[str, list[Any]]:
    entries = [json_in(line) for line in path.read_text("utf-8").splitlines() if line]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("each line must be an object")
    common = set.intersection(*map(set, entries)) if entries else set()
    return {name: [entry[name] for entry in entries] for name in common}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    table = read_table(path)
    return {
        name: table.column(name).to_pylist()
        for name in ("name", "label", "distance", "margin")
        if name in table.column_names
    }
