"""A list of image files: ``.txt``, ``.csv``, ``.tsv``, ``.parquet``, or an ``.npy`` array of paths."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.features.parquet_files import require_table
from vissl_clusterfit.images.base import Images, sizes_of, some
from vissl_clusterfit.images.decode import open_image
from vissl_clusterfit.images.labels import LABEL_COLUMNS, PATH_COLUMNS, as_labels, find_column
from vissl_clusterfit.images.names import PackedNames
from vissl_clusterfit.video.file_lists import read_list

#: Endings of lists; an .npy is one if it holds texts.
LISTS = (".txt", ".csv", ".tsv", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SETTING = "IMAGES.COLUMN"


class ListImages(Images):
    """The files that a list names, in its order; a sample's name is its path as the list has it.

    Args:
        place: the list. A relative path in it is relative to its folder.
        column: of the paths; needed where a table does not say by its header.
        labels: the columns of labels; by default the one that is called so, and in a ``.txt`` what follows the path.
        exif: turn images as their EXIF data say.

    Raises:
        DataError: it is no such list, is empty, or names files that are not there.
    """

    kind = "a list of images"

    def __init__(self, place: str, *, column: str = "", labels: Sequence[str] = (), exif: bool = True) -> None:
        ending = os.path.splitext(place)[1].lower()
        if ending in (".txt", ".npy"):
            if column or labels:
                raise DataError(problem("IMAGES.COLUMN, LABELS", found=f"{place}, which has none", allowed="a table"))
            paths, found = _plain_list(place)
        else:
            read = _parquet_columns if ending == ".parquet" else _table_columns
            paths, columns = read(place, column, labels)
            found = as_labels(columns, len(paths), place) if columns else None
        if not len(paths):
            raise DataError(problem(place, found="no path", allowed="one path or more"))
        super().__init__(place, PackedNames(paths), exif=exif)
        self._folder, self.labels = os.path.dirname(os.path.abspath(place)), found
        self._sizes = sizes_of([self.where(index) for index in range(len(self))])
        missing = [self.names[int(index)] for index in np.flatnonzero(self._sizes < 0)]
        if missing:
            shown = f"{len(missing)} of {len(self)} files missing: {some(missing)}"
            allowed = f"paths of files; relative ones are looked for in {self._folder}"
            raise DataError(problem(place, found=shown, allowed=allowed))

    def _open(self, index: int) -> Image.Image:
        return open_image(self.where(index))

    def _marks(self) -> Iterator[str]:
        return map(str, self._sizes)

    def where(self, index: int) -> str:
        """The path of a sample's file."""
        return os.path.join(self._folder, self.names[index])


def _without_mark(name: str) -> BinaryIO:
    """A list behind the mark that programs of Windows begin their texts with."""
    file = open(name, "rb")  # noqa: SIM115  (the reader closes it)
    if not name.lower().endswith(".txt") or file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return file


def _plain_list(place: str) -> tuple[list[str], np.ndarray | None]:
    try:
        listed = read_list(place, _without_mark)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}.") from None
    return [listed.path(index) for index in range(len(listed))], listed.labels


def _table_columns(place: str, column: str, labels: Sequence[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """The paths, and the columns of labels with their names, of a text with a header or without."""
    try:
        with open(place, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file, delimiter=_DELIMITERS[os.path.splitext(place)[1].lower()], strict=True)
            rows = [(lines.line_num, row) for row in lines if row]
    except (OSError, csv.Error, ValueError) as error:
        raise DataError(f"{place} cannot be read as a table: {error}.") from None
    if not rows:
        return [], []
    header = rows[0][1]
    for line, row in rows:
        if len(row) != len(header):
            found = f"{len(row)} fields in line {line}"
            raise DataError(problem(place, found=found, allowed=f"{len(header)}, as in the first line"))
    if not column and not labels and os.path.isfile(os.path.join(os.path.dirname(place), header[0])):
        header = ["path", "label"][: len(header)] if len(header) < 3 else ["path", *map(str, range(1, len(header)))]
    else:
        rows = rows[1:]
    chosen = _chosen(header, column, labels, place)
    values = [[row[number] for _, row in rows] for number in range(len(header))]
    paths, *others = ((name, values[header.index(name)]) for name in chosen)
    return paths[1], others


def _chosen(names: Sequence[str], column: str, labels: Sequence[str], place: str) -> list[str]:
    """The column of the paths, then those of labels."""
    paths = find_column(names, column, PATH_COLUMNS, _SETTING, "column") or (names[0] if len(names) == 1 else None)
    if paths is None:
        found = f"{place} with the columns {', '.join(names)}"
        allowed = f"the name of the column of paths; it is known if one alone is called {' | '.join(PATH_COLUMNS)}"
        raise DataError(problem(_SETTING, found=found, allowed=allowed))
    if labels:
        of_labels = [find_column(names, name, (), "IMAGES.LABELS", "column") for name in labels]
    else:
        of_labels = [find_column(names, "", LABEL_COLUMNS, "IMAGES.LABELS", "column")]
    return [paths, *filter(None, of_labels)]


def _parquet_columns(place: str, column: str, labels: Sequence[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    require("pyarrow")
    import pyarrow
    import pyarrow.parquet

    require_table(Path(place))
    try:
        schema = pyarrow.parquet.read_schema(place)
        names = list(schema.names)
        chosen = _chosen(names, column, labels, place)
        kind = schema.field(chosen[0]).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            remedy = "Images that lie in a table themselves: datasets.Dataset.from_parquet(file).save_to_disk(folder)."
            found, allowed = f"{place}: {chosen[0]} of type {kind}", "paths, as texts"
            raise DataError(problem(_SETTING, found=found, allowed=allowed, remedy=remedy))
        table = pyarrow.parquet.read_table(place, columns=list(dict.fromkeys(chosen)))
        paths = table.column(chosen[0]).to_pylist()
        columns = [(name, table.column(name).to_pylist()) for name in chosen[1:]]
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}.") from None
    if None in paths:
        raise DataError(problem(place, found=f"no path in row {paths.index(None)}", allowed="a path in each row"))
    return paths, columns
