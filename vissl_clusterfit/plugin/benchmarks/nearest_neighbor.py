"""``engine_name: clusterfit_nearest_neighbor``: VISSL's kNN benchmark (``benchmark/nearest_neighbor/…``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.plugin.benchmarks.run import SETTINGS_NAMES, BenchmarkRun
from vissl_clusterfit.plugin.engines.base import StageEngine
from vissl_clusterfit.transfer.knn import KnnSettings
from vissl_clusterfit.transfer.settings import TransferSettings

_BLOCK = "config.NEAREST_NEIGHBOR"


class NearestNeighborEngine(StageEngine):
    """Classifies the test split by the nearest training samples, layer by layer; processes share the queries."""

    settings_names: ClassVar[Mapping[str, str]] = {
        **SETTINGS_NAMES,
        r"config\.(TRANSFER\.KNN|NEAREST_NEIGHBOR)\.NUM_NEIGHBORS": f"{_BLOCK}.TOPK",
        r"config\.NEAREST_NEIGHBOR\.TEMPERATURE": f"{_BLOCK}.SIGMA",
    }

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Extracts what is missing, and records top-1 and top-5 accuracy of each layer in ``results.json``."""
        settings = TransferSettings(protocols=["knn"], knn=read_settings(KnnSettings, _translated(cfg), _BLOCK))
        run = BenchmarkRun(cfg, checkpoint_folder)
        labels = {
            split: array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
            for split, array in distributed.on_primary(run.labels).items()
        }
        run.run_protocol("knn", "nearest neighbours", settings, labels)


def _translated(cfg: AttrDict) -> dict[str, Any]:
    """VISSL's block, as the protocol of ``clusterfit_transfer`` has it."""
    block = cfg.NEAREST_NEIGHBOR
    return {
        "NUM_NEIGHBORS": block.TOPK,
        "TEMPERATURE": block.SIGMA,
        "SIMILARITY": "cosine" if block.L2_NORM_FEATS else "dot",
        "TOPK": [1, 5],
    }
