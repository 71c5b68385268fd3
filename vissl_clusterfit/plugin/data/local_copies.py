"""``COPY_TO_LOCAL_DISK``: the data of a run copied to a disk of this machine, for as long as it runs.

VISSL builds commands for a shell from the paths, and at the end removes the destination with all that was in it before.
Here the copies go into a folder that this run makes below the destination, and that folder alone is removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vissl.data.dataset_catalog import check_data_exists, get_data_files

from vissl_clusterfit.errors import ClusterFitError, ConfigError, DataError, problem
from vissl_clusterfit.plugin.data.image_source import SOURCE as IMAGES
from vissl_clusterfit.plugin.data.source_names import base_source, data_errors, unused_label_paths
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote

logger = logging.getLogger(__name__)

_PREFIX = "vissl-clusterfit-"
_THREADS = 16
# A list of videos names them relative to its own folder. Of collections of images, folders and these files are whole.
_STAY = ("video_filelist",)
_WHOLE = (".tar", ".npz", ".mdb", ".lmdb")


@contextlib.contextmanager
def local_copies(config: Any) -> Iterator[None]:
    """Has ``config.DATA`` name local copies of the splits that ask for it, while the block runs.

    Raises:
        ConfigError: the destination cannot be written, or is inside the data.
        DataError: the data cannot be copied.
    """
    with contextlib.ExitStack() as stack:
        for split in ("TRAIN", "TEST"):
            if config.DATA[split].COPY_TO_LOCAL_DISK:
                stack.enter_context(_copies_of(split, config.DATA))
        yield


@contextlib.contextmanager
def _copies_of(split: str, all_data: Any) -> Iterator[None]:
    data = all_data[split]
    before = {name: data[name] for name in ("COPY_TO_LOCAL_DISK", "DATA_PATHS", "LABEL_PATHS")}
    data.COPY_TO_LOCAL_DISK = False  # or VISSL would look in the destination for what has the same name
    folder: Path | None = None
    try:
        with data_errors(split):
            paths, labels = get_data_files(split, all_data)
        folder = _own_folder(split, str(data.COPY_DESTINATION_DIR or ""))
        try:
            stay = [_stays(source, path) for source, path in zip(data.DATA_SOURCES, paths, strict=True)]
            data.DATA_PATHS = [
                path if stays else _copied(path, folder / f"data{number}", split)
                for number, (path, stays) in enumerate(zip(paths, stay, strict=True))
            ]
            # Labels that are missing stay so, and the places of the others with them.
            labels = [
                _copied(path, folder / f"labels{number}", split) if check_data_exists(path) else path
                for number, path in enumerate(data.LABEL_PATHS or labels)
            ]
            data.LABEL_PATHS = labels or unused_label_paths(data.DATA_SOURCES)
        except ClusterFitError:
            raise
        except (OSError, ValueError) as error:  # shutil's own errors, too; a path with a zero byte
            raise DataError(f"config.DATA.{split}: the data cannot be copied to {folder}: {error}") from None
        logger.info("config.DATA.%s is copied to %s while this run lasts.", split, folder)
        yield
    finally:
        data.update(before)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _stays(source: str, path: Any) -> bool:
    """Whether data are read where they are: they are named by a list or a pattern, whose files are elsewhere."""
    if base_source(source) != IMAGES:
        return base_source(source) in _STAY
    stays = not os.path.isdir(path) and not (os.path.isfile(path) and path.lower().endswith(_WHOLE))
    if stays:
        logger.warning("COPY_TO_LOCAL_DISK has no effect on %s: its images are read where they are.", path)
    return stays


def _own_folder(split: str, destination: str) -> Path:
    """A new folder for this run alone."""
    if not destination:
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    setting = f"config.DATA.{split}.COPY_DESTINATION_DIR"
    allowed = "a folder of this machine that can be written"
    if as_remote(artifact_path(destination, setting)):
        raise ConfigError(problem(setting, found=destination, allowed=allowed))
    try:
        os.makedirs(destination, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=os.path.abspath(destination)))
    except (OSError, ValueError) as error:
        found = f"{destination!r} ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(problem(setting, found=found, allowed=allowed)) from None


def _copied(source: Any, place: Path, split: str) -> Any:
    """Copies a file or folder into ``place``, and gives its path there; what is no path stays."""
    if not isinstance(source, str):  # several label files of one data source
        return [_copied(one, place / str(number), split) for number, one in enumerate(source)]
    if not source:  # a data source that needs none
        return source
    path = artifact_path(source, f"config.DATA.{split}.DATA_PATHS")
    if not as_remote(path) and path.is_dir():
        _copy_folder(path, place, split)
        return str(place)
    if not path.is_file():
        found = f"{source}, which is no file and no folder of this machine"
        remedy = f"Set config.DATA.{split}.COPY_TO_LOCAL_DISK=false."
        raise DataError(problem(f"config.DATA.{split}", found=found, allowed="data that can be copied", remedy=remedy))
    place.mkdir(parents=True)
    copy = place / path.name
    with path.open("rb") as file, copy.open("wb") as target:
        shutil.copyfileobj(file, target, 1 << 20)
    return str(copy)


def _copy_folder(source: Path, place: Path, split: str) -> None:
    """Copies what a walk through a folder meets, links as what they lead to, many files at a time."""
    if place.resolve().is_relative_to(source.resolve()):
        allowed = f"a folder outside of the data, {source}"
        raise ConfigError(problem(f"config.DATA.{split}.COPY_DESTINATION_DIR", found=place.parents[1], allowed=allowed))
    files: list[tuple[str, str]] = []
    for folder, below, names in os.walk(source, onerror=_refuse, followlinks=True):
        here = os.path.realpath(folder)
        for name in below:
            if here == (to := os.path.realpath(f"{folder}/{name}")) or here.startswith(f"{to}/"):
                raise DataError(f"config.DATA.{split}: {folder}/{name} leads to a folder that it is in.")
        copy = os.path.join(place, os.path.relpath(folder, source))
        os.makedirs(copy, exist_ok=True)
        files += [(os.path.join(folder, name), os.path.join(copy, name)) for name in names]
    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(_copy_file, *zip(*files, strict=True)) if files else ():
            pass


def _copy_file(file: str, copy: str) -> None:
    if os.path.exists(file):
        shutil.copyfile(file, copy)
    else:  # a link that leads nowhere: a sample that cannot be read, here as there
        os.symlink(os.path.realpath(file), copy)


def _refuse(error: OSError) -> None:
    raise error
