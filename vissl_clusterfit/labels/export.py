"""Pseudo-labels as files that other programs read: NumPy, CSV, JSON lines, Parquet, or class folders of links."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import whole_folder, write_file
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1 << 16


def export_labels(
    labels: PseudoLabels | str | Path,
    path: str | Path,
    *,
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Writes labels for other programs, whole or not at all; what is there already is refused, never written over.

    The end of ``path`` says how:

    - ``.npy``: labels (N,) int64 as VISSL's ``disk_filelist`` reads them. With ``images``, the paths of the images lie
      beside it in ``<path without .npy>-images.npy``, and samples without a label are in neither.
    - ``.csv``, ``.jsonl``, ``.parquet``: for each sample its ``name`` where there are names, ``label``, and where they
      are known ``distance`` and ``margin``; with the T nearest clusters, these and the distances to them. A sample
      without a label has -1; an infinite margin is ``inf`` in CSV and null in JSON.
    - no end: a folder with one folder for each cluster that has samples, of links to the images in ``images``, as
      torchvision's ``ImageFolder`` reads it.

    Args:
        labels: or their folder.
        path: of the file or folder.
        images: the folder in which the names are paths.
        names: of the samples, in order, where the labels have none with them.

    Returns:
        The path.

    Raises:
        DataError: names or images are missing, or lead out of the folder; the end of ``path`` is none of these.
        ArtifactError: there is something at ``path``, or it cannot be written.
        MissingDependencyError: Parquet without pyarrow.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import export_labels, import_features, make_codebook, make_labels
        >>> points = np.array([[0, 0], [0, 2], [10, 0]], dtype=np.float32)
        >>> features = import_features(points, "run/features", names=["a.jpg", "b.jpg", "c.jpg"])
        >>> codebook = make_codebook(features, "run/codebook", num_clusters=1, normalize=False)
        >>> labels = make_labels(features, codebook, "run/labels")
        >>> print(export_labels(labels, "labels.csv").read_text().splitlines()[0])
        name,label,distance,margin
    """
    own = labels if isinstance(labels, PseudoLabels) else PseudoLabels.open(artifact_path(str(labels), "labels"))
    goal = Path(path)
    writers = {".npy": _write_npy, ".csv": _write_csv, ".jsonl": _write_json_lines, ".parquet": _write_parquet}
    if goal.suffix not in writers and goal.suffix:
        allowed = f"one that ends in {', '.join(writers)}, or in none of them for class folders"
        raise DataError(problem("path", found=str(path), allowed=allowed))
    if len(own.num_clusters) > 1:
        found = f"labels of {len(own.num_clusters)} codebooks in {own.folder}"
        raise DataError(problem("labels", found=found, allowed="those of one codebook"))
    table = _Table(own, own.names if names is None else names, None if images is None else Path(images))
    require_free(goal)
    if goal.suffix:
        writers[goal.suffix](table, goal)
    else:
        _write_folders(table, goal)
    logger.info("%d labels of %s are in %s.", own.num_samples - own.num_unlabelled, own.folder, goal)
    return goal


class _Table:
    """Labels a few rows at a time, each with its name.

    Attributes:
        columns: the names of what there is of each sample.
    """

    def __init__(self, labels: PseudoLabels, names: Sequence[str] | None, images: Path | None) -> None:
        if names is not None and len(names) != labels.num_samples:
            found = f"{len(names)} names for {labels.num_samples} samples"
            raise DataError(problem("names", found=found, allowed="one name for each sample, in order"))
        self.source, self.names, self.images = labels, names, images
        self._arrays: dict[str, np.ndarray] = {"label": labels.labels}
        if labels.has_distances:
            self._arrays |= {"distance": labels.distances, "margin": labels.margins}
        if labels.top_clusters > 1:
            self._arrays |= {"nearest": labels.nearest, "nearest_distances": labels.nearest_distances}
        self.columns = [*([] if names is None else ["name"]), *self._arrays]

    def blocks(self) -> Iterator[dict[str, Any]]:
        """The columns of a few rows; names as a list, all else as arrays."""
        for start in range(0, self.source.num_samples, _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            named = {} if self.names is None else {"name": list(self.names[part])}
            yield {**named, **{name: np.asarray(array[part]) for name, array in self._arrays.items()}}

    def image_paths(self) -> list[Path]:
        """The image of each sample.

        Raises:
            DataError: there are no names, one leads out of the folder of images, or images are missing.
        """
        if self.names is None:
            remedy = "Give them as names=, or label features whose names are kept."
            found = f"labels without names in {self.source.folder}"
            raise DataError(problem("names", found=found, allowed="the names of the samples", remedy=remedy))
        if self.images is None:
            raise DataError(problem("images", found="None", allowed="the folder in which the names are paths"))
        paths = [Path(os.path.normpath(self.images / name)) for name in self.names]
        root = Path(os.path.normpath(self.images))
        outside = [name for name, path in zip(self.names, paths, strict=True) if root not in path.parents]
        missing = [] if outside else [str(path) for path in paths if not path.is_file()]
        for wrong, what in ((outside, "names lead out of"), (missing, "images are missing in")):
            if wrong:
                text = f"{len(wrong)} {what} {self.images}, the first is {wrong[0]!r}"
                raise DataError(problem("images", found=text, allowed="a folder that holds every image by its name"))
        return paths


def require_free(goal: Path) -> None:
    """Refuses to write over anything.

    Raises:
        ArtifactError: there is something at ``goal``.
    """
    if os.path.lexists(goal):
        raise ArtifactError(f"{goal} is there already: it was left as it is. Name another path, or remove it.")


def _write_npy(table: _Table, goal: Path) -> None:
    labels = np.asarray(table.source.labels)
    if table.images is None:
        num_without = int((labels < 0).sum())
        if num_without:
            logger.warning("%d samples have no label: -1 in %s. With images=, they are left out.", num_without, goal)
    else:
        beside, kept = goal.with_name(f"{goal.stem}-images.npy"), labels >= 0
        require_free(beside)
        paths = np.array([str(path) for path in table.image_paths()])
        artifacts.write_array(beside, paths[kept])
        labels = labels[kept]
    artifacts.write_array(goal, labels)


def _write_csv(table: _Table, goal: Path) -> None:
    header: list[str] = []
    for name in table.columns:
        numbered = range(1, table.source.top_clusters + 1)
        header += [f"{name}_{rank}" for rank in numbered] if name.startswith("nearest") else [name]

    def write(file: BinaryIO) -> None:
        with as_text(file) as text:
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(header)
            for block in table.blocks():
                columns: list[Any] = []
                for values in block.values():
                    if isinstance(values, np.ndarray):
                        columns += [column.tolist() for column in _shortest(values).reshape(len(values), -1).T]
                    else:
                        columns.append(values)
                rows.writerows(zip(*columns, strict=True))

    write_file(goal, write)


def _write_json_lines(table: _Table, goal: Path) -> None:
    def write(file: BinaryIO) -> None:
        with as_text(file) as text:
            for block in table.blocks():
                columns = [
                    _shortest(column).tolist() if isinstance(column, np.ndarray) else column
                    for column in block.values()
                ]
                for row in zip(*columns, strict=True):
                    entry = {
                        name: None if isinstance(value, float) and math.isinf(value) else value
                        for name, value in zip(block, row, strict=True)
                    }
                    text.write(json.dumps(entry) + "\n")

    write_file(goal, write)


def _shortest(values: np.ndarray) -> np.ndarray:
    """Numbers that Python writes with the digits that float32 has."""
    if values.dtype != np.float32:
        return values
    return np.array([float(str(value)) for value in values.ravel()]).reshape(values.shape)


def as_text(file: BinaryIO) -> io.TextIOWrapper:
    """The file for text, which leaves it open when it is closed."""

    class Kept(io.TextIOWrapper):
        """Leaves the file open, which is synced afterwards."""

        def close(self) -> None:
            if not self.closed:
                self.detach()

    return Kept(file, encoding="utf-8", errors="surrogateescape", newline="")


def _write_parquet(table: _Table, goal: Path) -> None:
    require("pyarrow")
    import pyarrow
    import pyarrow.parquet

    def batch(block: dict[str, Any]) -> Any:
        columns = {
            name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])
            if isinstance(values, np.ndarray) and values.ndim == 2
            else pyarrow.array(values)
            for name, values in block.items()
        }
        return pyarrow.table(columns)

    def write(file: BinaryIO) -> None:
        writer = None
        for block in table.blocks():
            part = batch(block)
            writer = writer or pyarrow.parquet.ParquetWriter(file, part.schema)
            writer.write_table(part)
        if writer is not None:
            writer.close()

    write_file(goal, write)


def _write_folders(table: _Table, goal: Path) -> None:
    paths = table.image_paths()
    digits = len(str(table.source.num_clusters[0] - 1))
    names: Sequence[str] = table.names or ()
    with whole_folder(goal) as folder:
        for name, path, label in zip(names, paths, table.source.labels.tolist(), strict=True):
            if label < 0:
                continue
            link = folder / f"{label:0{digits}d}" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.abspath(path))
