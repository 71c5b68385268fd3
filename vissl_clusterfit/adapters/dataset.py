"""VISSL's data sets as ClusterFit needs them: images in a fixed order, their names, and labels from an artefact."""

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
from vissl.data import DATASET_SOURCE_MAP, build_dataset

from vissl_clusterfit.config import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.labels import PseudoLabels

PAIRED_PREFIX = "clusterfit_"


def base_source(name: str) -> str:
    """The VISSL data source that a paired one reads its images through."""
    return name.removeprefix(PAIRED_PREFIX)


class PseudoLabelledSource(Dataset):
    """A VISSL data source paired with pseudo-labels; registered as ``clusterfit_<source>`` for every source.

    With ``LABEL_SOURCES: [torchvision_dataset]`` VISSL asks the source itself for its labels, by the position of a
    sample in the whole split, so that ``DATA_LIMIT`` takes the same subset of images and labels. Labels are read when
    the first sample is, in the process that reads samples: they need not exist before training starts.
    """

    def __init__(self, cfg: AttrDict, path: str, split: str, dataset_name: str, data_source: str) -> None:
        source = base_source(data_source)
        self._split = split
        self._settings = ClusterFitConfig.from_config(cfg.CLUSTERFIT)
        self._images = DATASET_SOURCE_MAP[source](
            cfg=cfg, path=path, split=split, dataset_name=dataset_name, data_source=source
        )

    def __len__(self) -> int:
        return len(self._images)

    def num_samples(self) -> int:
        """Samples of the whole split, as VISSL asks for them."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        return self._images[index]

    def get_image_paths(self) -> list[str]:
        """The files of the images, where the paired source has files."""
        return self._images.get_image_paths()

    def get_labels(self) -> np.ndarray:
        """The label of every sample of the split, int64 of shape (N,) or (N, L), mapped from disk.

        Raises:
            ArtifactError: there are no labels for this split.
            DataError: there are labels for another number of samples.
        """
        labels = PseudoLabels.open(self._settings.paths.labels(self._split)).labels
        if len(labels) != len(self):
            raise DataError(
                f"{self._settings.paths.labels(self._split)} holds {len(labels)} labels, the {self._split} split has "
                f"{len(self)} samples. The labels were made for other data: name another CLUSTERFIT.OUTPUT_DIR."
            )
        return labels


class SplitImages(Dataset):
    """One split of ``config.DATA`` in its fixed order: transformed images, and whether each could be read.

    The whole split, whatever its ``DATA_LIMIT``: that one restricts training, and labels are addressed by the position
    of a sample in the whole split. Unreadable samples are not replaced by others.
    """

    def __init__(self, cfg: AttrDict, split: str, transforms: list) -> None:
        self._require_one_source(cfg, split)
        data = copy.deepcopy(cfg.DATA)
        data[split].update(
            DATA_SOURCES=[base_source(name) for name in data[split].DATA_SOURCES],
            LABEL_SOURCES=[],
            LABEL_TYPE="sample_index",
            TRANSFORMS=[AttrDict(transform) for transform in transforms],
            DATA_LIMIT=-1,
            ENABLE_QUEUE_DATASET=False,
        )
        self._split = split
        self._cfg = AttrDict({"DATA": data})
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
        source = self._dataset.data_objs[0]
        kind, path = self._cfg.DATA[self._split].DATA_SOURCES[0], self._dataset.data_paths[0]
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
    dataset = build_dataset(cfg=cfg, split=split)
    if not dataset.label_sources:
        raise ConfigError(
            problem(f"config.DATA.{split}.LABEL_SOURCES", found="none", allowed="one label source, for evaluation")
        )
    dataset.load_labels()
    return np.asarray(dataset.label_objs[0], dtype=np.int64)
