"""The images of a split in a fixed order, their names and their true labels, through VISSL's own data sets."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import g_pathmgr
from PIL import Image
from torch.utils.data import Dataset
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.adapters.label_source import base_source, data_errors, paired_paths, paired_source
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.features.samples import dataset_inputs, hash_samples

# Pillow makes 8 bits of them by cutting off what is above 255, so that a picture becomes white.
_SATURATED_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class SplitImages(Dataset):
    """One split of ``config.DATA`` in its fixed order: transformed images, and why which could not be read.

    The whole split, whatever its ``DATA_LIMIT``: that one restricts training, and labels are addressed by the position
    of a sample in the whole split. Unreadable samples are not replaced by others.
    """

    def __init__(self, cfg: AttrDict, split: str, transforms: list) -> None:
        self._require_one_source(cfg, split)
        data = copy.deepcopy(cfg.DATA)
        sources = data[split].DATA_SOURCES
        data[split].update(
            DATA_SOURCES=[paired_source(name) for name in sources],
            DATA_PATHS=paired_paths(sources, data[split].DATA_PATHS),
            LABEL_SOURCES=[],
            LABEL_TYPE="sample_index",
            TRANSFORMS=[AttrDict(transform) for transform in transforms],
            DATA_LIMIT=-1,
            ENABLE_QUEUE_DATASET=False,
        )
        self._split = split
        self._cfg = AttrDict({"DATA": data, "CLUSTERFIT": cfg.CLUSTERFIT})
        with data_errors(split):
            self._dataset = build_dataset(cfg=self._cfg, split=split)

    @staticmethod
    def _require_one_source(cfg: AttrDict, split: str) -> None:
        sources = cfg.DATA[split].DATA_SOURCES
        if len(sources) != 1:
            raise ConfigError(
                problem(
                    f"config.DATA.{split}.DATA_SOURCES",
                    found=sources,
                    allowed="one data source for ClusterFit",
                )
            )

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        sample = self._dataset[index]
        image = sample["data"][0]
        if not isinstance(image, torch.Tensor):
            raise DataError(
                problem(
                    "config.CLUSTERFIT.FEATURES.TRANSFORMS",
                    found=f"transforms that end in a {type(image).__name__}",
                    allowed="transforms that end in one tensor per image",
                    remedy="Add ToTensor.",
                )
            )
        return image, self._why_unreadable(index, read=sample["data_valid"][0] == 1)

    def _why_unreadable(self, index: int, *, read: bool) -> str:
        """Why a sample has no right image; "" if it has. VISSL keeps the reason to its log."""
        if self._files is None:
            return "" if read else "VISSL could not read it"
        try:
            with g_pathmgr.open(self.name_of(index), "rb") as file, Image.open(file) as image:
                if image.mode in _SATURATED_MODES:
                    return f"its pixels have more than 8 bits (mode {image.mode}), which VISSL would cut off"
                if not read:
                    image.convert("RGB")
        except Exception as error:  # whatever a decoder may raise is the reason
            return f"{type(error).__name__}: {error}"
        return "" if read else "VISSL could not read it"

    @property
    def _source(self) -> Any:
        return self._dataset.data_objs[0].images

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,): names, and for files of a folder their sizes, wherever it lies."""
        return hash_samples(self._sample_names())

    def inputs(self) -> dict[str, Any]:
        """What identifies the data, for manifests."""
        return dataset_inputs(self.samples)

    def name_of(self, index: int) -> str:
        """The file of a sample, or its place where the source has no files."""
        return self._files[index] if self._files is not None else f"number {index}"

    @functools.cached_property
    def _files(self) -> Sequence[str] | None:
        return self._source.get_image_paths() if hasattr(self._source, "get_image_paths") else None

    def _sample_names(self) -> Iterator[str]:
        path = self._dataset.data_paths[0]
        kind = base_source(self._cfg.DATA[self._split].DATA_SOURCES[0])
        if kind == "disk_folder":
            for file in self._files or ():
                yield f"{os.path.relpath(file, path)} {os.path.getsize(file)}"
        elif self._files is not None:
            yield from map(str, self._files)
        else:
            name = f"{kind} {self._cfg.DATA[self._split].DATASET_NAMES} {self._split}"
            yield from (f"{name} {index}" for index in range(len(self)))


def true_labels(cfg: AttrDict, split: str) -> np.ndarray:
    """The labels that ``config.DATA[split]`` names, int64 of shape (N,), for evaluation.

    Raises:
        ConfigError: the split names no labels.
    """
    with data_errors(split):
        dataset = build_dataset(cfg=cfg, split=split)
    if not dataset.label_sources:
        raise ConfigError(
            problem(f"config.DATA.{split}.LABEL_SOURCES", found="none", allowed="one label source, for evaluation")
        )
    dataset.load_labels()
    return np.asarray(dataset.label_objs[0], dtype=np.int64)
