"""What the rows of a benchmark have in common: ``config.BENCHMARK``, which says how they are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl.config import AttrDict

from vissl_clusterfit.config.schema import read_settings, setting


@dataclass(frozen=True)
class BenchmarkSettings:
    """The block ``config.BENCHMARK``, which VISSL's configs lack: every key is optional (``+config.BENCHMARK.X=…``)."""

    #: The name of the network in the results; its file if empty.
    model_name: str = setting("")
    #: The name of the data in the results; DATASET_NAMES of the test split if empty.
    dataset_name: str = setting("")
    #: Rows per shard of the features.
    shard_size: int = setting(4096, at_least=1)
    #: The share of samples that may be unreadable before the run stops.
    max_unreadable: float = setting(0.05, at_least=0.0, at_most=1.0)

    @classmethod
    def from_config(cls, cfg: AttrDict) -> BenchmarkSettings:
        """Reads ``config.BENCHMARK``, which may be missing.

        Raises:
            ConfigError: naming every unknown key and bad value.
        """
        return read_settings(cls, cfg.get("BENCHMARK") or {}, "config.BENCHMARK")


def common_fields(cfg: AttrDict, settings: BenchmarkSettings, dataset: str = "") -> dict[str, Any]:
    """Model, data set, split and seed of a row.

    Args:
        cfg: VISSL's ``config``.
        settings: its ``BENCHMARK``.
        dataset: the name of the data where no setting gives one; DATASET_NAMES of the test split if empty.
    """
    weights = cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE
    return {
        "model": settings.model_name or ("/".join(Path(weights).parts[-2:]) if weights else "untrained"),
        "dataset": settings.dataset_name or dataset or ", ".join(cfg.DATA.TEST.DATASET_NAMES) or "dataset",
        "split": "test",
        "seed": cfg.SEED_VALUE,
    }
