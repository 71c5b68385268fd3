"""Any VISSL data source paired with pseudo-labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.plugin.data.tolerant_source import TolerantSource


class PseudoLabelledSource(TolerantSource):
    """A VISSL data source paired with pseudo-labels; registered as ``clusterfit_<source>`` for every source.

    With ``LABEL_SOURCES: [torchvision_dataset]`` VISSL asks the source itself for its labels, by the position of a
    sample in the whole split, so that ``DATA_LIMIT`` takes the same subset of images and labels. Labels are read when
    the first sample is, in the process that reads samples: they need not exist before training starts.
    """

    def __init__(self, cfg: AttrDict, **source: Any) -> None:
        super().__init__(cfg, **source)
        self._settings = settings = ClusterFitConfig.from_config(cfg)
        self._folders = [each.paths.labels(self._split) for each in settings.heads]
        self._folders += [settings.labels_of_others(folder, self._split) for folder in settings.joined_labels]

    def get_labels(self) -> np.ndarray:
        """The label of every sample of the split, int64 of shape (N,), mapped from disk, or (N, L).

        With several heads (JOINED_LABELS, nested targets) there is a column for each, in memory; where the targets ask
        for more than a label, the index of each sample follows as the last one.

        Raises:
            ArtifactError: there are no labels for this split.
            DataError: there are labels for another number of samples.
        """
        columns = [PseudoLabels.open(folder).labels for folder in self._folders]
        for folder, labels in zip(self._folders, columns, strict=True):
            if len(labels) != len(self):
                raise DataError(
                    f"{folder} holds {len(labels)} labels, the {self._split} split has {len(self)} samples. The labels "
                    "were made for other data: name another CLUSTERFIT.OUTPUT_DIR."
                )
        if self._settings.targets.by_sample:
            columns.append(np.arange(len(self)))
        return np.column_stack(columns) if len(columns) > 1 else columns[0]
