"""One layer of a store that holds several side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.features.store import FeatureStore


@dataclass(frozen=True)
class LayerRows:
    """The features of one layer, of the samples that could be read; a slice of rows is read from disk when asked for.

    Attributes:
        store: of all layers side by side.
        samples: the rows of the store that could be read, ascending.
        columns: those of this layer.
    """

    store: FeatureStore
    samples: np.ndarray
    columns: slice

    @property
    def ndim(self) -> int:
        """Two."""
        return 2

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and dimensions."""
        return len(self.samples), self.columns.stop - self.columns.start

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.store.take(self.samples[rows])[:, self.columns]


def readable_share(train: LayerRows, test: LayerRows) -> str:
    """For the protocol of a row: of how many samples it is, where some could not be read; "" where all could."""
    if all(len(rows) == rows.store.num_samples for rows in (train, test)):
        return ""
    shares = [
        f"{len(rows)} of {rows.store.num_samples} {name} samples"
        for rows, name in ((test, "test"), (train, "training"))
    ]
    return f"{' and '.join(shares)}, the others could not be read; "
