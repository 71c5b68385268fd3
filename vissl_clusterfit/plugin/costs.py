"""What a stage takes, summed over the processes of a run and added to ``costs.json``."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.report.costs import add_costs, core_seconds
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)


class Meter:
    """Counts from where it is made. All processes of a run call it together."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._begun, self._cores = time.monotonic(), core_seconds()

    def add(self, stage: str) -> None:
        """Adds to the file what was taken since. Where that cannot be, it is said, and ends nothing."""
        of_cores = sum(distributed.gather(core_seconds() - self._cores))
        seconds, gpus = time.monotonic() - self._begun, 0
        if self._config.MACHINE.DEVICE == "gpu":
            gpus = distributed.world_size()
        folder = artifact_path(self._config.CHECKPOINT.DIR, "config.CHECKPOINT.DIR")
        if distributed.is_primary():
            try:
                add_costs(folder, stage, seconds=seconds, of_cores=of_cores, gpus=gpus)
            except ArtifactError as error:
                logger.warning("What this stage took (%s) is not counted: %s", stage, error)


@contextlib.contextmanager
def counted(config: Any, stage: str) -> Iterator[None]:
    """Counts what a stage takes that is done in the block, to its end."""
    meter = Meter(config)
    yield
    meter.add(stage)
