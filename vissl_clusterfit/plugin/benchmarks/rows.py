"""What the rows of a benchmark have in common: ``config.BENCHMARK``, which says how they are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl.config import AttrDict

from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.plugin.models.raw_pixels import TRUNK_NAME

UNTRAINED = "untrained"


@dataclass(frozen=True)
class BenchmarkSettings:
    """The block ``config.BENCHMARK``, which VISSL's configs lack: every key is optional (``+config.BENCHMARK.X=…``)."""

    #: The name of the network in the results; its file if empty.
    model_name: str = setting("")
    #: The name of the data in the results; DATASET_NAMES of the test split if empty.
    dataset_name: str = setting("")
    #: Rows per shard of the features, as FEATURES.SHARD_SIZE of ClusterFit.
    shard_size: int = setting(0, at_least=0)
    #: The share of samples that may be unreadable before the run stops.
    max_unreadable: float = setting(0.05, at_least=0.0, at_most=1.0)

    @classmethod
    def from_config(cls, cfg: AttrDict) -> BenchmarkSettings:
        """Reads ``config.BENCHMARK``, which may be missing.

        Raises:
            ConfigError: naming every unknown key and bad value.
        """
        return read_settings(cls, cfg.get("BENCHMARK") or {}, "config.BENCHMARK")


def is_untrained(cfg: AttrDict) -> bool:
    """Whether the network of a benchmark has weights to train, and they are as they were drawn."""
    return not cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE and cfg.MODEL.TRUNK.NAME != TRUNK_NAME


def model_in_rows(cfg: AttrDict, name: str) -> str:
    """The name of the network in rows, log and tables: one without weights is untrained, whatever it is called.

    Args:
        cfg: VISSL's ``config``.
        name: what a setting calls the network.
    """
    return f"{name} ({UNTRAINED})" if is_untrained(cfg) and UNTRAINED not in name.lower() else name


def common_fields(cfg: AttrDict, settings: BenchmarkSettings, dataset: str = "") -> dict[str, Any]:
    """Model, data set, split and seed of a row.

    Args:
        cfg: VISSL's ``config``.
        settings: its ``BENCHMARK``.
        dataset: the name of the data where no setting gives one; DATASET_NAMES of the test split if empty.
    """
    weights = cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE
    of_file = "/".join(Path(weights).parts[-2:]) if weights else UNTRAINED
    return {
        "model": model_in_rows(cfg, settings.model_name or of_file),
        "dataset": settings.dataset_name or dataset or ", ".join(cfg.DATA.TEST.DATASET_NAMES) or "dataset",
        "split": "test",
        "seed": cfg.SEED_VALUE,
    }
