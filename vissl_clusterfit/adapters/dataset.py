"""The images of a split in a fixed order, their names and their true labels, through VISSL's own data sets."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.adapters.label_source import base_source, data_errors, paired_paths, paired_source
from vissl_clusterfit.errors import ConfigError, DataError, problem


class SplitImages(Dataset):
    """One split of ``config.DATA`` in its fixed order: transformed images, and whether each could be read.

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

    def __getitem__(self, index: int) -> tuple[torch.Tensor, bool]:
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
        return image, sample["data_valid"][0] == 1

    def inputs(self) -> dict[str, Any]:
        """What identifies the data, for manifests: number of samples and fingerprint of the ordered sample list."""
        digest = hashlib.sha256()
        for name in self._sample_names():
            digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
        return {"num_samples": len(self), "fingerprint": digest.hexdigest()}

    def _sample_names(self) -> Iterator[str]:
        """The ordered sample list: names, and for files of a folder their sizes; independent of where the data lie."""
        source, path = self._dataset.data_objs[0].images, self._dataset.data_paths[0]
        kind = base_source(self._cfg.DATA[self._split].DATA_SOURCES[0])
        if kind == "disk_folder":
            for file in source.get_image_paths():
                yield f"{os.path.relpath(file, path)} {os.path.getsize(file)}"
        elif hasattr(source, "get_image_paths"):
            yield from map(str, source.get_image_paths())
        else:
            yield f"{kind} {self._cfg.DATA[self._split].DATASET_NAMES} {self._split} {len(self)}"


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
