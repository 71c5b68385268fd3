"""A data set of Hugging Face's ``datasets`` that ``save_to_disk`` wrote; its pictures are read as they were stored."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.images.base import Images, sizes_of
from vissl_clusterfit.images.decode import open_image
from vissl_clusterfit.images.labels import LABEL_COLUMNS, as_labels, find_column
from vissl_clusterfit.images.names import PackedNames


def is_dataset(folder: str) -> bool:
    """Whether ``save_to_disk`` wrote a folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


class HuggingFaceImages(Images):
    """The images of one split; a sample's name is its number and, where it was stored, the name of its file.

    Args:
        place: the folder of the split.
        column: of the images; needed where there are several.
        labels: the columns of labels; by default the one of classes, or the one that is called so.
        exif: turn images as their EXIF data say.

    Raises:
        DataError: it cannot be read, has several splits, or no column of images.
    """

    kind = "a data set of Hugging Face's"

    def __init__(self, place: str, *, column: str = "", labels: Sequence[str] = (), exif: bool = True) -> None:
        require("datasets")
        import datasets

        data = _load(place)
        if isinstance(data, datasets.DatasetDict):
            splits = " | ".join(os.path.join(place, name) for name in data)
            raise DataError(problem(place, found=f"{len(data)} splits", allowed=splits))
        features = data.features
        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        if column not in images and (column or len(images) != 1):
            found = f"no column {column!r} of images" if column else f"{len(images)} columns of images"
            allowed = " | ".join(images) or "a column of the type datasets.Image"
            raise DataError(problem(f"{place}: IMAGES.COLUMN", found=found, allowed=allowed))
        column = column or images[0]
        self._data = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column = column
        stored = self._data.data.column(column).combine_chunks()
        paths = stored.field("path").to_pylist()
        ending = [f"/{os.path.basename(path)}" if path else "" for path in paths]
        super().__init__(place, PackedNames(f"{index}{name}" for index, name in enumerate(ending)), exif=exif)
        self._sizes = _sizes(stored.field("bytes"), paths)
        classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        if not labels:
            chosen = classes[0] if len(classes) == 1 else find_column(list(features), "", LABEL_COLUMNS, "", "column")
            labels = [chosen] if chosen else []
        for name in labels:
            find_column(list(features), name, (), f"{place}: IMAGES.LABELS", "column")
        if labels:
            self.labels = as_labels([(name, data.data.column(name).to_pylist()) for name in labels], len(self), place)

    def _open(self, index: int) -> Image.Image:
        stored: dict[str, Any] = self._data[index][self._column]
        return Image.open(io.BytesIO(stored["bytes"])) if stored["bytes"] is not None else open_image(stored["path"])

    def _marks(self) -> Iterator[str]:
        return map(str, self._sizes)


def _load(place: str) -> Any:
    import datasets
    import pyarrow

    try:
        return datasets.load_from_disk(place)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{place} cannot be read as a data set of Hugging Face's: {error}.") from None


def _sizes(stored: Any, paths: Sequence[str | None]) -> np.ndarray:
    """The size of each image in bytes, int64 (N,): those of its file where only its path was stored."""
    import pyarrow.compute

    sizes = pyarrow.compute.fill_null(pyarrow.compute.binary_length(stored), -1).to_numpy(zero_copy_only=False)
    sizes = sizes.astype(np.int64)
    outside = np.flatnonzero(sizes < 0)
    if len(outside):
        sizes[outside] = sizes_of([os.path.abspath(paths[index] or "") for index in outside.tolist()])
    return sizes
