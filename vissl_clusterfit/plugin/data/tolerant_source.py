"""Any VISSL data source, read in spite of damaged files: a grey image stands for one that cannot be read."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import Dataset
from vissl.config import AttrDict
from vissl.data import DATASET_SOURCE_MAP
from vissl.data.data_helper import get_mean_image

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.plugin.data.source_names import base_source, data_errors

logger = logging.getLogger(__name__)


class TolerantSource(Dataset):
    """A VISSL data source that always gives an image, and whether it is that of the sample.

    Registered as ``tolerant_<source>`` for every source. Extraction reads through it, before there are labels.

    Args:
        cfg: VISSL's ``config``.
        path: of the data, as ``DATA_PATHS`` names it.
        split: ``TRAIN`` or ``TEST``.
        dataset_name: as ``DATASET_NAMES`` names it.
        data_source: the registered name.

    Raises:
        DataError: the data are not there, are empty, or fewer than ``DATA_LIMIT``.
    """

    def __init__(self, cfg: AttrDict, path: str, split: str, dataset_name: str, data_source: str) -> None:
        source = base_source(data_source)
        self._split = split
        self._grey_size = cfg.DATA[split].DEFAULT_GRAY_IMG_SIZE
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
