"""Any VISSL data source paired with pseudo-labels, and its faults told as the user's: missing, empty, unreadable."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from vissl.config import AttrDict
from vissl.data import DATASET_SOURCE_MAP
from vissl.data.data_helper import get_mean_image
from vissl.data.dataset_catalog import get_data_files

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.plugin.data.named_files import require_data_files
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)

_PREFIX = "clusterfit_"
_NEEDS_NO_PATH = "synthetic"


def labelled_source_name(name: str) -> str:
    """The registered data source that pairs a VISSL data source with pseudo-labels."""
    return f"{_PREFIX}{base_source(name)}"


def is_paired(name: str) -> bool:
    """Whether a registered data source pairs another one with pseudo-labels."""
    return name.startswith(_PREFIX)


def base_source(name: str) -> str:
    """The VISSL data source that a paired one reads its images through."""
    return name.removeprefix(_PREFIX)


def paired_paths(sources: list[str], paths: list[str]) -> list[str]:
    """``DATA_PATHS`` for paired ``sources``: VISSL knows only the unpaired name of the one that needs no path."""
    return paths or ([""] * len(sources) if {*map(base_source, sources)} == {_NEEDS_NO_PATH} else [])


def unused_label_paths(sources: list[str]) -> list[str]:
    """``LABEL_PATHS`` for paired ``sources``, whose labels lie in no file: without any, VISSL looks for some."""
    return [""] * len(sources)


@contextmanager
def data_errors(split: str) -> Iterator[None]:
    """What VISSL and torchvision raise where data are missing, as our message."""
    try:
        yield
    except (AssertionError, FileNotFoundError, KeyError) as error:
        reason = str(error.args[0] if isinstance(error, KeyError) else error).strip().removesuffix(".")
        raise DataError(
            f"config.DATA.{split}: the data set cannot be opened: {reason}. Check DATA_PATHS, DATA_SOURCES and "
            "DATASET_NAMES."
        ) from None


def require_data_paths(cfg: AttrDict) -> None:
    """Checks, before any process starts, that every split that is paired with labels says where it lies.

    Raises:
        DataError: it has no DATA_PATHS, and its name is in no catalogue of VISSL's; or a list or a label file is none.
    """
    require_data_files(cfg.DATA)
    for split in ("TRAIN", "TEST"):
        if any(is_paired(source) for source in cfg.DATA[split].DATA_SOURCES):
            with data_errors(split):
                get_data_files(split, cfg.DATA)


class PseudoLabelledSource(Dataset):
    """A VISSL data source paired with pseudo-labels; registered as ``clusterfit_<source>`` for every source.

    With ``LABEL_SOURCES: [torchvision_dataset]`` VISSL asks the source itself for its labels, by the position of a
    sample in the whole split, so that ``DATA_LIMIT`` takes the same subset of images and labels. Labels are read when
    the first sample is, in the process that reads samples: they need not exist before training starts. A grey image
    stands for one that cannot be read, whatever the source does then.
    """

    def __init__(self, cfg: AttrDict, path: str, split: str, dataset_name: str, data_source: str) -> None:
        source = base_source(data_source)
        self._split = split
        self._grey_size = cfg.DATA[split].DEFAULT_GRAY_IMG_SIZE
        self._settings = ClusterFitConfig.from_config(cfg.CLUSTERFIT)
        with data_errors(split):
            self.images = DATASET_SOURCE_MAP[source](
                cfg=cfg, path=path, split=split, dataset_name=dataset_name, data_source=source
            )
        self._require_enough(cfg.DATA[split])

    def _require_enough(self, data: AttrDict) -> None:
        name, count = f"config.DATA.{self._split}", len(self.images)
        if count == 0:
            raise DataError(
                problem(name, found="an empty data set", allowed="one sample or more", remedy="Check DATA_PATHS.")
            )
        skipped = data.get("DATA_LIMIT_SAMPLING", {}).get("SKIP_NUM_SAMPLES", 0)
        if data.DATA_LIMIT >= 0 and data.DATA_LIMIT + skipped > count:
            raise DataError(
                problem(
                    f"{name}.DATA_LIMIT",
                    found=f"{data.DATA_LIMIT}, after {skipped} that are skipped",
                    allowed=f"at most {count} together, the samples of the split; -1 for all",
                )
            )

    def __len__(self) -> int:
        return len(self.images)

    def num_samples(self) -> int:
        """Samples of the whole split, as VISSL asks for them."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        """An image, and whether it could be read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self.images[index]
        except Exception as error:  # damaged files make decoders raise nearly anything
            files = getattr(getattr(self.images, "image_dataset", None), "samples", None)
            name = files[index][0] if files else f"Sample {index} of {self._split}"
            logger.warning("%s cannot be read: %s: %s", name, type(error).__name__, error)
            return get_mean_image(self._grey_size), False

    def get_labels(self) -> np.ndarray:
        """The label of every sample of the split, int64 of shape (N,) or (N, L), mapped from disk.

        With JOINED_LABELS a column for each: (N, 1 + number of these), in memory.

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
        joined = [PseudoLabels.open(artifact_path(folder)).labels for folder in self._settings.joined_labels]
        return np.column_stack([labels, *joined]) if joined else labels
