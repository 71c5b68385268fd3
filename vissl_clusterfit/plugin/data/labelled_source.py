"""Any VISSL data source paired with pseudo-labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.plugin.data.tolerant_source import TolerantSource
from vissl_clusterfit.storage.paths import artifact_path


class PseudoLabelledSource(TolerantSource):
    """A VISSL data source paired with pseudo-labels; registered as ``clusterfit_<source>`` for every source.

    With ``LABEL_SOURCES: [torchvision_dataset]`` VISSL asks the source itself for its labels, by the position of a
    sample in the whole split, so that ``DATA_LIMIT`` takes the same subset of images and labels. Labels are read when
    the first sample is, in the process that reads samples: they need not exist before training starts.
    """

    def __init__(self, cfg: AttrDict, **source: Any) -> None:
        super().__init__(cfg, **source)
        settings = ClusterFitConfig.from_config(cfg)
        self._folder, self._joined = settings.paths.labels(self._split), settings.joined_labels

    def get_labels(self) -> np.ndarray:
        """The label of every sample of the split, int64 of shape (N,) or (N, L), mapped from disk.

        With JOINED_LABELS a column for each: (N, 1 + number of these), in memory.

        Raises:
            ArtifactError: there are no labels for this split.
            DataError: there are labels for another number of samples.
        """
        labels = PseudoLabels.open(self._folder).labels
        if len(labels) != len(self):
            raise DataError(
                f"{self._folder} holds {len(labels)} labels, the {self._split} split has "
                f"{len(self)} samples. The labels were made for other data: name another CLUSTERFIT.OUTPUT_DIR."
            )
        joined = [PseudoLabels.open(artifact_path(folder)).labels for folder in self._joined]
        return np.column_stack([labels, *joined]) if joined else labels
