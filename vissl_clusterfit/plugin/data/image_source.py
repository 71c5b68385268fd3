"""``images``: the data source of any collection of images that ``vissl_clusterfit.images`` opens."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from vissl.config import AttrDict
from vissl.data.data_helper import get_mean_image

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.opening import ImageSettings, open_images

logger = logging.getLogger(__name__)

SOURCE = "images"


def opened(data: AttrDict, split: str, place: str) -> Images:
    """The collection at a place, by ``config.DATA.<split>.IMAGES``.

    Raises:
        ConfigError: naming every unknown key and bad value.
        DataError: it cannot be opened.
    """
    settings = read_settings(ImageSettings, data[split].get("IMAGES") or {}, f"config.DATA.{split}.IMAGES")
    return open_images(place, column=settings.column, labels=settings.labels, exif=settings.exif)


class ImagesSource(Dataset):
    """Images of a collection, by the number of the sample; grey ones stand for those that cannot be read."""

    def __init__(self, cfg: AttrDict, path: str, split: str, dataset_name: str, data_source: str) -> None:
        del dataset_name, data_source
        if cfg.DATA[split].ENABLE_QUEUE_DATASET:
            setting = f"config.DATA.{split}.ENABLE_QUEUE_DATASET"
            raise ConfigError(problem(setting, found=f"true for the source {SOURCE}", allowed="false"))
        self.cfg, self.split = cfg, split
        self.collection = opened(cfg.DATA, split, path)
        self._last_fault = (-1, "")

    def __len__(self) -> int:
        return len(self.collection)

    def num_samples(self) -> int:
        """Samples of the whole split, as VISSL asks for them."""
        return len(self)

    def __getitem__(self, index: int) -> tuple[Image.Image, bool]:
        """The image of a sample, and whether it could be read."""
        index = int(index)  # of a subset it is NumPy's
        try:
            return self.collection.read(index), True
        except Exception as error:  # damaged files make decoders raise nearly anything
            self._last_fault = (index, f"{type(error).__name__}: {error}")
            logger.warning("%s cannot be read: %s", self.collection.where(index), self._last_fault[1])
            return get_mean_image(self.cfg.DATA[self.split].DEFAULT_GRAY_IMG_SIZE), False

    def why_unreadable(self, index: int) -> str:
        """The reason of the sample that was read last, if it could not be."""
        return self._last_fault[1] if self._last_fault[0] == index else ""

    def get_image_paths(self) -> list[str]:
        """Where each sample lies; the name is VISSL's."""
        return [self.collection.where(index) for index in range(len(self))]

    def get_labels(self) -> np.ndarray:
        """The labels that the collection came with: int64 (N,) or (N, L), or names (N,).

        Raises:
            DataError: it has none.
        """
        if self.collection.labels is None:
            raise DataError(
                problem(
                    f"config.DATA.{self.split}.LABEL_SOURCES",
                    found=f"{SOURCE}, for {self.collection.kind} without labels ({self.collection.place})",
                    allowed="a collection with labels, or disk_filelist with LABEL_PATHS",
                    remedy=f"A table's columns of labels are named by config.DATA.{self.split}.IMAGES.LABELS.",
                )
            )
        return self.collection.labels
