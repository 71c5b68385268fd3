"""How far an extraction is: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from vissl_clusterfit import distributed
from vissl_clusterfit.features.store import Shard
from vissl_clusterfit.features.writer import FeatureStoreWriter

logger = logging.getLogger(__name__)

_LOOK_AT_ALL_S = 10.0


class Progress:
    """A bar with rate and time left on a terminal, a log line now and then elsewhere; on the primary process only.

    It counts what all processes have done, as far as the folder shows it.
    """

    def __init__(self, writer: FeatureStoreWriter, missing: list[Shard]) -> None:
        on_terminal = sys.stderr.isatty()
        self._writer = writer
        self._total = _num_samples(missing)
        self._looked_at = time.monotonic()
        self._bar = tqdm(
            total=self._total,
            unit=" samples",
            desc="Extracting",
            disable=not distributed.is_primary(),
            file=sys.stderr if on_terminal else _LogStream(),
            mininterval=0.5 if on_terminal else 30.0,
            ncols=None if on_terminal else 80,
        )

    def add(self, count: int) -> None:
        """Counts samples of this process, and every ten seconds those of the others."""
        if self._bar.disable:
            return
        if time.monotonic() - self._looked_at < _LOOK_AT_ALL_S:
            self._bar.update(count)
        else:
            self._looked_at = time.monotonic()
            self._bar.update(max(0, self._total - _num_samples(self._writer.missing()) - self._bar.n))

    def complete(self) -> None:
        """Says that all is done."""
        self._bar.update(self._total - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()  # while there is a log to write to, however the block ends


def _num_samples(shards: list[Shard]) -> int:
    return sum(shard.stop - shard.start for shard in shards)


class _LogStream:
    """Where tqdm writes when there is no terminal: each state of the bar becomes one plain log line."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            logger.info("%s", line)

    def flush(self) -> None:
        return None
