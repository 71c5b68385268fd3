"""The labels that a data set came with: whole numbers or names, one per sample, numbered alike in both splits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from torchvision.datasets.folder import find_classes
from vissl.config import AttrDict
from vissl.data import build_dataset
from vissl.data.dataset_catalog import get_data_files

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.plugin.data.image_source import SOURCE as IMAGES
from vissl_clusterfit.plugin.data.image_source import ImagesSource, opened
from vissl_clusterfit.plugin.data.source_names import data_errors
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.untrusted import load_array

_SPLITS = ("TRAIN", "TEST")
_FOLDER, _LIST = "disk_folder", "disk_filelist"
_WHOLE_NUMBERS = "iub"
_SHOWN = 5


def true_labels(cfg: AttrDict, split: str) -> np.ndarray:
    """The labels that ``config.DATA[split]`` names, int64 of shape (N,) or (N, C), for evaluation.

    Raises:
        ConfigError: the split names no labels.
        DataError: a file of labels is missing, which VISSL would pass over, is none, or has other labels than whole
            numbers and names, or another number of them than there are samples.
    """
    labels = _load(cfg, split)
    if labels.dtype.kind not in _WHOLE_NUMBERS:
        raise _no_whole_numbers(split, labels)
    return labels.astype(np.int64)


def labels_of_both(cfg: AttrDict) -> dict[str, np.ndarray]:
    """The labels of TRAIN and TEST, of the same classes.

    Raises:
        ConfigError, DataError: as :func:`true_labels` and :func:`require_same_classes`; or one of them has one class
            per sample and the other targets, or targets for another number of classes.
    """
    require_same_classes(cfg)
    labels = {split: true_labels(cfg, split) for split in _SPLITS}
    train, test = (labels[split].shape[1:] for split in _SPLITS)
    if train != test:
        found = f"labels of shape {labels['TEST'].shape}, and of {labels['TRAIN'].shape} in TRAIN"
        raise DataError(problem("config.DATA.TEST", found=found, allowed="labels of the same kind in both splits"))
    return labels


def require_labels(cfg: AttrDict) -> None:
    """Checks, before any process starts, the labels that a training of VISSL's reads, where that takes no time.

    Raises:
        DataError: as :func:`true_labels` and :func:`require_same_classes`.
    """
    splits = _SPLITS if cfg.TEST_MODEL or cfg.TEST_ONLY else _SPLITS[:1]
    if len(splits) > 1:
        require_same_classes(cfg)
    for split in splits:
        data = cfg.DATA[split]
        sources = set(data.DATA_SOURCES)
        if sources and sources == set(data.LABEL_SOURCES) and sources <= {_LIST, IMAGES}:
            _load(cfg, split)


def _load(cfg: AttrDict, split: str) -> np.ndarray:
    with data_errors(split):
        dataset = build_dataset(cfg=cfg, split=split)
    if not dataset.label_sources:
        raise ConfigError(
            problem(f"config.DATA.{split}.LABEL_SOURCES", found="none", allowed="one label source, for evaluation")
        )
    if _LIST in dataset.label_sources and len(dataset.label_paths) < len(dataset.label_sources):
        found = f"{list(cfg.DATA[split].LABEL_PATHS) or 'no path'}, where there is no file"
        raise DataError(
            problem(f"config.DATA.{split}.LABEL_PATHS", found=found, allowed="an .npy file with the labels")
        )
    try:
        with data_errors(split):
            dataset.load_labels()
        return np.asarray(dataset.label_objs[0])
    except ValueError as error:
        raise DataError(f"config.DATA.{split}: the labels cannot be read: {error}. Check LABEL_PATHS.") from None


def require_same_classes(cfg: AttrDict) -> None:
    """Refuses two splits whose classes have names and would be numbered differently.

    Names of a file are numbered as those of TRAIN (:func:`numbers_of_names`); class folders by their own order.

    Raises:
        DataError: naming the classes that one of them lacks.
    """
    names = {split: _class_names(cfg, split) for split in _SPLITS}
    if names["TRAIN"] is None or names["TEST"] is None:
        return
    of_folders = {split: _FOLDER in cfg.DATA[split].LABEL_SOURCES for split in _SPLITS}
    # A name of TRAIN that no test sample has changes no number where the numbers are TRAIN's.
    pairs = [("TRAIN", "TEST"), ("TEST", "TRAIN")] if of_folders["TEST"] else [("TRAIN", "TEST")]
    for split, other in pairs:
        lacking = sorted(set(names[other] or ()) - set(names[split] or ()))
        if lacking:
            what, key = ("folder" if of_folders[split] else "label"), _key_of(cfg, split)
            raise DataError(
                problem(
                    f"config.DATA.{split}.{key}",
                    found=f"no {what} {_some(lacking)}, which {other} has",
                    allowed="the same class folders in both splits, as classes are numbered by their folders"
                    if of_folders["TEST"]
                    else "labels of TEST that TRAIN has, too",
                )
            )


def numbers_of_names(dataset: Any, labels: np.ndarray) -> np.ndarray:
    """The numbers of labels that are names, in the place of VISSL's ``GenericSSLDataset._convert_to_numeric_ids``.

    VISSL numbers the names of each split alone, so that a class which TEST lacks shifts all that follow. Here the names
    of TRAIN have the numbers; so have its class folders.

    Raises:
        DataError: a name that TRAIN lacks.
    """
    names = _as_names(labels)
    if names is None:
        return labels
    known = _class_names(dataset.cfg, "TRAIN") if dataset.split != "TRAIN" else None
    of_train = np.unique(names) if known is None else np.array(sorted(known))
    places = np.searchsorted(of_train, names).clip(max=len(of_train) - 1)
    if (strange := of_train[places] != names).any():
        raise DataError(
            problem(
                f"config.DATA.{dataset.split}.{_key_of(dataset.cfg, dataset.split)}",
                found=f"the labels {_some(sorted(set(names[strange].tolist())))}, which TRAIN lacks",
                allowed=f"those of TRAIN: {_some(of_train.tolist())}",
            )
        )
    return places


def of_collections(load_labels: Callable[[Any], None]) -> Callable[[Any], None]:
    """VISSL's loading of labels, with those that a collection of images came with: ``LABEL_SOURCES: [images]``.

    The function it gives raises DataError where they are asked of another data source.
    """

    @functools.wraps(load_labels)
    def load(dataset: Any) -> None:
        sources, own = dataset.label_sources, {}
        for number, source in enumerate(sources):
            if source == IMAGES:
                collection = dataset.data_objs[number]
                if not isinstance(collection, ImagesSource):
                    found = f"{IMAGES}, where the data source is {dataset.data_sources[number]}"
                    setting = f"config.DATA.{dataset.split}.LABEL_SOURCES"
                    raise DataError(problem(setting, found=found, allowed=f"it with the data source {IMAGES}"))
                own[number] = dataset._convert_to_numeric_ids(collection.get_labels())
        # What VISSL makes labels of where nothing is read holds their places.
        dataset.label_sources = ["synthetic" if source == IMAGES else source for source in sources]
        load_labels(dataset)
        dataset.label_sources = sources
        for number, labels in own.items():
            dataset.label_objs[number] = labels

    return load


def _key_of(cfg: AttrDict, split: str) -> str:
    """The key that names where the labels of a split are."""
    return "LABEL_PATHS" if cfg["DATA"][split].LABEL_SOURCES[0] == _LIST else "DATA_PATHS"


def fitting(load_labels: Callable[[Any], None]) -> Callable[[Any], None]:
    """Wraps VISSL's ``GenericSSLDataset.load_labels``, which takes any number of labels of any type.

    Targets of several classes may be shares, one row per sample; classes are whole numbers.
    """

    @functools.wraps(load_labels)
    def load(dataset: Any) -> None:
        load_labels(dataset)
        try:
            _require_fitting(dataset)
        except DataError:
            dataset.label_objs, dataset.labels_init = [], False
            raise

    return load


def _require_fitting(dataset: Any) -> None:
    # Other data sources draw their subset themselves, and need not know the number of all samples.
    counted = dataset._can_random_subset_data_sources()
    for source, labels in zip(dataset.data_objs, dataset.label_objs, strict=False):
        for array in map(np.asarray, labels if isinstance(labels, list) else [labels]):
            if counted and len(array) != len(source):
                found = f"{len(array)} labels for {len(source)} samples"
                raise DataError(problem(f"config.DATA.{dataset.split}", found=found, allowed="one label per sample"))
            if array.dtype.kind not in _WHOLE_NUMBERS and (array.ndim == 1 or array.dtype.kind != "f"):
                raise _no_whole_numbers(dataset.split, array)


def _no_whole_numbers(split: str, labels: np.ndarray) -> DataError:
    return DataError(
        problem(
            f"config.DATA.{split}.LABEL_PATHS",
            found=f"labels of type {labels.dtype}",
            allowed="whole numbers, or the names of classes, one per sample",
            remedy="Save them as whole numbers: labels.astype(int).",
        )
    )


def _as_names(labels: np.ndarray) -> np.ndarray | None:
    """Labels (N,) that are text, as such; None where they are something else."""
    array = np.asarray(labels)
    return array if array.ndim == 1 and array.dtype.kind == "U" else None


def _class_names(cfg: AttrDict, split: str) -> list[str] | None:
    """The names by which the classes of a split are numbered; None where its labels are numbers, or not of files."""
    data = cfg["DATA"][split]
    if not data.DATA_SOURCES or not data.LABEL_SOURCES or data.LABEL_SOURCES[0] not in (_FOLDER, _LIST, IMAGES):
        return None
    with data_errors(split):
        images, labels = get_data_files(split, cfg["DATA"])
        if data.LABEL_SOURCES[0] == _FOLDER:
            return find_classes(images[0])[0]
    if data.LABEL_SOURCES[0] == IMAGES:
        found = opened(cfg["DATA"], split, images[0]).labels if data.DATA_SOURCES[0] == IMAGES else None
        names = None if found is None else _as_names(found)
        return None if names is None else np.unique(names).tolist()
    try:
        names = _as_names(load_array(artifact_path(labels[0])))
    except (ValueError, OSError, IndexError, MemoryError, TypeError):  # said where they are loaded
        return None
    return None if names is None else np.unique(names).tolist()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
