"""The labels that a split of the config has, for evaluation."""

from __future__ import annotations

import pickle

import numpy as np
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.plugin.data.labelled_source import (
    data_errors,
)


def true_labels(cfg: AttrDict, split: str) -> np.ndarray:
    """The labels that ``config.DATA[split]`` names, int64 of shape (N,), for evaluation.

    Raises:
        ConfigError: the split names no labels.
        DataError: a file of labels is missing, which VISSL would pass over, or is none.
    """
    with data_errors(split):
        dataset = build_dataset(cfg=cfg, split=split)
    if not dataset.label_sources:
        raise ConfigError(
            problem(f"config.DATA.{split}.LABEL_SOURCES", found="none", allowed="one label source, for evaluation")
        )
    if "disk_filelist" in dataset.label_sources and len(dataset.label_paths) < len(dataset.label_sources):
        found = f"{list(cfg.DATA[split].LABEL_PATHS) or 'no path'}, where there is no file"
        raise DataError(
            problem(f"config.DATA.{split}.LABEL_PATHS", found=found, allowed="an .npy file with the labels")
        )
    try:
        with data_errors(split):
            dataset.load_labels()
        return np.asarray(dataset.label_objs[0], dtype=np.int64)
    except (ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"config.DATA.{split}: the labels cannot be read: {error}. Check LABEL_PATHS.") from None


def require_same_classes(cfg: AttrDict) -> None:
    """Refuses two folders of class folders that differ: their classes would be numbered differently.

    Raises:
        DataError: naming the folders that one of them lacks.
    """
    names = {split: _class_folders(cfg, split) for split in ("TRAIN", "TEST")}
    for split, other in (("TRAIN", "TEST"), ("TEST", "TRAIN")):
        lacking = sorted(names[other] - names[split]) if names["TRAIN"] and names["TEST"] else []
        if lacking:
            raise DataError(
                problem(
                    f"config.DATA.{split}.DATA_PATHS",
                    found=f"no folder {', '.join(lacking[:5])}{', …' if len(lacking) > 5 else ''}, which {other} has",
                    allowed="the same class folders in both splits, as classes are numbered by their folders",
                )
            )


def _class_folders(cfg: AttrDict, split: str) -> set[str]:
    """The class folders of a split; none where its labels come from elsewhere."""
    if "disk_folder" not in cfg.DATA[split].LABEL_SOURCES:
        return set()
    with data_errors(split):
        dataset = build_dataset(cfg=cfg, split=split)
    return set(dataset.data_objs[0].image_dataset.classes)
