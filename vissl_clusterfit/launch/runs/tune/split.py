"""TRAIN in two parts, as lists of files that VISSL reads: what settings are fitted on, and what they are chosen on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.datasets.preparation import KIND
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.plugin.data.source_names import data_errors
from vissl_clusterfit.storage.artifacts import has_manifest, read_array, read_manifest, write_array
from vissl_clusterfit.transfer.validation import hold_out

_SOURCES = ("disk_filelist", "disk_folder")


class ValidationSplit:
    """The two parts of TRAIN.

    Args:
        cfg: VISSL's ``config``.
        settings: its ``TUNE``.
        labels: of TRAIN, int64 (N,) or (N, C).

    Raises:
        ConfigError: TRAIN has no files that could be listed, or no prepared list.
        DataError: it cannot be split.
    """

    def __init__(self, cfg: AttrDict, settings: TuneSettings, labels: np.ndarray) -> None:
        [source] = cfg.DATA.TRAIN.DATA_SOURCES
        if source not in _SOURCES:
            allowed = f"{' or '.join(_SOURCES)}, where settings are chosen: a part of TRAIN is a list of files"
            raise ConfigError(problem("config.DATA.TRAIN.DATA_SOURCES", found=source, allowed=allowed))
        with data_errors("TRAIN"):
            self._images = np.asarray(build_dataset(cfg=cfg, split="TRAIN").data_objs[0].get_image_paths())
        self._labels = labels
        if settings.validation == "prepared":
            fitted, chosen_on = self._prepared(cfg)
        else:
            try:
                fitted, chosen_on = hold_out(labels, settings.validation_share, settings.seed)
            except DataError as error:
                raise DataError(f"config.TUNE: the validation split cannot be drawn of TRAIN. {error}") from None
            self._origin = (
                f"a share of {settings.validation_share:g} that was held out, "
                f"{'of each class, ' if labels.ndim == 1 else ''}random_state {settings.seed}"
            )
        self._parts = {"fit": np.sort(fitted), "validation": np.sort(chosen_on)}

    def _prepared(self, cfg: AttrDict) -> tuple[np.ndarray, np.ndarray]:
        folder = Path(cfg.DATA.TRAIN.DATA_PATHS[0] if cfg.DATA.TRAIN.DATA_PATHS else ".").parent
        listed = folder / "val_images.npy"
        if not has_manifest(folder) or not listed.is_file():
            allowed = "a TRAIN that vissl-clusterfit prepare has written, with its lists beside it; or drawn"
            raise ConfigError(problem("config.TUNE.VALIDATION", found=f"prepared, and no {listed}", allowed=allowed))
        held_out = set(read_array(listed).tolist())
        is_held_out = np.array([image in held_out for image in self._images.tolist()])
        if is_held_out.sum() != len(held_out) or is_held_out.all():
            allowed = "images of TRAIN, and not all of them: TRAIN must be the list trainval"
            found = f"{len(held_out)} images, {is_held_out.sum()} of them in TRAIN, which has {len(self._images)}"
            raise DataError(problem(str(listed), found=found, allowed=allowed))
        self._origin = read_manifest(folder, KIND)["validation"]
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    def __str__(self) -> str:
        sizes = (len(self._parts["validation"]), len(self._images))
        return f"{sizes[0]} of {sizes[1]} training samples ({self._origin})"

    def write(self, folder: Path) -> None:
        """Writes the lists of both parts."""
        folder.mkdir(parents=True, exist_ok=True)
        for part, samples in self._parts.items():
            write_array(folder / f"{part}_images.npy", self._images[samples])
            write_array(folder / f"{part}_labels.npy", self._labels[samples])


def read_from(cfg: AttrDict, split: str, folder: Path, part: str) -> None:
    """Has ``config.DATA[split]`` read a part of TRAIN, "fit" or "validation", in place; transforms stay."""
    data, train = cfg.DATA[split], cfg.DATA.TRAIN
    # VISSL changes paths where it opens the files of a list, and not those of a folder.
    of_list = train.DATA_SOURCES == ["disk_filelist"]
    prefixes = {key: train[key] if of_list else "" for key in ("REMOVE_IMG_PATH_PREFIX", "NEW_IMG_PATH_PREFIX")}
    data.update(
        DATA_SOURCES=["disk_filelist"],
        DATA_PATHS=[f"{folder}/{part}_images.npy"],
        LABEL_SOURCES=["disk_filelist"],
        LABEL_PATHS=[f"{folder}/{part}_labels.npy"],
        DATASET_NAMES=list(train.DATASET_NAMES),
        LABEL_TYPE=train.LABEL_TYPE,
        COPY_TO_LOCAL_DISK=False,
        **prefixes,
    )
