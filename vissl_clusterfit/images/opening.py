"""The one way in: a place on disk, and what collection of images lies there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.images.arrays import ArrayImages
from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.folder import FolderImages
from vissl_clusterfit.images.hugging_face import HuggingFaceImages, is_dataset
from vissl_clusterfit.images.lists import LISTS, ListImages
from vissl_clusterfit.images.lmdb_files import LmdbImages, is_lmdb
from vissl_clusterfit.images.tar import TarImages, is_pattern, matching, tars_in
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_array, require_regular

_ALLOWED = (
    "a folder of images, or of tar files; a list (.txt, .csv, .tsv, .parquet, .npy of paths); an array (.npy, .npz); a "
    "tar file, or a pattern of some; a folder of datasets.save_to_disk; an LMDB"
)


@dataclass(frozen=True)
class ImageSettings:
    """``config.DATA.<SPLIT>.IMAGES``: what of a place is taken, and how."""

    #: The column of paths or images, or the array of an ``.npz``; "" where there is one alone, or a known name.
    column: str = setting("")
    #: The columns of labels, or arrays of an ``.npz``; by default the column that is called so, if there is one.
    labels: tuple = setting(())
    #: Turn images as their EXIF data say; else it is counted how many are not upright.
    exif: bool = setting(True)

    def __post_init__(self) -> None:
        """Refuses names that are no texts.

        Raises:
            ConfigError: naming them.
        """
        if not all(isinstance(name, str) and name for name in self.labels):
            raise ConfigError(problem("LABELS", found=list(self.labels), allowed="names of columns or arrays"))


def open_images(place: str | Path, *, column: str = "", labels: Sequence[str] = (), exif: bool = True) -> Images:
    """Opens the collection of images that lies at a place, whatever of these it is.

    | place | samples | names |
    |---|---|---|
    | a folder | images in it and below it | paths in it |
    | ``.txt``, ``.csv``, ``.tsv``, ``.parquet``, ``.npy`` of texts | files that it names | paths as the list has them |
    | ``.npy``, ``.npz`` of uint8 (N, H, W, 3) | pictures | their numbers |
    | ``.tar``, a folder of them, ``shard-{000..015}.tar``, ``*.tar`` | images in them | ``shard.tar/member.jpg`` |
    | a folder of ``datasets.Dataset.save_to_disk`` | rows | ``number/file`` |
    | an LMDB | values | keys |

    Args:
        place: on this machine.
        column: the column of the paths or images, or the array of an ``.npz``, where there are several.
        labels: the columns of labels, or the arrays of an ``.npz``.
        exif: turn images as their EXIF data say; else ``num_ignored_orientations`` counts those that are not upright.

    Raises:
        DataError: nothing is there, it is none of these, or it is damaged.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit.images import open_images
        >>> np.save("pictures.npy", np.zeros((5, 32, 32, 3), dtype=np.uint8))
        >>> images = open_images("pictures.npy")
        >>> len(images), images.names[4], images.read(4).size
        (5, '4', (32, 32))
    """
    text = os.fspath(place)
    if as_remote(artifact_path(text, "The images")):
        raise DataError(problem("The images", found=text, allowed="a place on this machine", remedy="Copy it here."))
    ending = os.path.splitext(text)[1].lower()
    if not os.path.exists(text) and is_pattern(text):
        return _taking_no_columns(TarImages(text, matching(text), exif=exif), column, labels)
    if not os.path.exists(text):
        raise DataError(problem("The images", found=f"{text}, which is not there", allowed=_ALLOWED))
    try:
        require_regular(text)
    except UnsafeFileError as error:
        raise DataError(problem("The images", found=f"{text}, {error}", allowed=_ALLOWED)) from None
    if os.path.isdir(text) and is_dataset(text):
        return HuggingFaceImages(text, column=column, labels=labels, exif=exif)
    if ending == ".npz" or (ending == ".npy" and not _is_list(text)):
        return ArrayImages(text, column=column, labels=labels)
    if ending in (*LISTS, ".npy") and os.path.isfile(text):
        return ListImages(text, column=column, labels=labels, exif=exif)
    return _taking_no_columns(_without_columns(text, ending, exif), column, labels)


def _without_columns(place: str, ending: str, exif: bool) -> Images:
    if is_lmdb(place):
        return LmdbImages(place, exif=exif)
    if not os.path.isdir(place):
        if ending not in (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"):
            raise DataError(problem("The images", found=place, allowed=_ALLOWED))
        return TarImages(place, [place], exif=exif)
    tars = tars_in(place)
    return TarImages(place, tars, exif=exif) if tars else FolderImages(place, exif=exif)


def _taking_no_columns(images: Images, column: str, labels: Sequence[str]) -> Images:
    if column or labels:
        found = f"{column or list(labels)!r} for {images.kind}, which has no columns"
        raise DataError(problem("IMAGES.COLUMN, IMAGES.LABELS", found=found, allowed="none"))
    return images


def _is_list(place: str) -> bool:
    """Whether an ``.npy`` holds texts."""
    try:
        return load_array(Path(place), mmap=True).dtype.kind == "U"
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{place} cannot be read as an array: {error}.") from None
