"""How far an extraction is, by what all of its processes have done."""

from __future__ import annotations

import time

from vissl_clusterfit.features.store import Shard
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.progress.step import Progress

_LOOK_AT_ALL_S = 10.0


class ExtractionProgress(Progress):
    """It counts the samples of this process, and every ten seconds those of the others, as the folder shows them."""

    def __init__(self, writer: FeatureStoreWriter, missing: list[Shard]) -> None:
        super().__init__("Extracting", writer.num_samples, "samples", done=writer.num_samples - _num_samples(missing))
        self._writer = writer
        self._looked_at = time.monotonic()

    def add(self, count: int, note: str = "") -> None:
        """Counts samples of this process."""
        if not self.is_shown:
            return
        if time.monotonic() - self._looked_at < _LOOK_AT_ALL_S:
            super().add(count, note)
        else:
            self._looked_at = time.monotonic()
            self.set(max(self.done, self._writer.num_samples - _num_samples(self._writer.missing())), note)


def _num_samples(shards: list[Shard]) -> int:
    return sum(shard.stop - shard.start for shard in shards)
