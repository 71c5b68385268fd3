"""``engine_name: clusterfit_nearest_neighbor``: VISSL's kNN benchmark (``benchmark/nearest_neighbor/…``)."""

from __future__ import annotations

import logging

import numpy as np
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.features.layers import LayerRows
from vissl_clusterfit.plugin.benchmarks.run import SETTINGS_NAMES, BenchmarkRun
from vissl_clusterfit.plugin.engines.base import StageEngine
from vissl_clusterfit.transfer.class_ranks import true_class_ranks

logger = logging.getLogger(__name__)


class NearestNeighborEngine(StageEngine):
    """Classifies the test split by the nearest training samples, layer by layer; processes share the queries."""

    settings_names = SETTINGS_NAMES

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Extracts what is missing, and appends top-1 and top-5 accuracy of each layer to ``results.json``."""
        run = BenchmarkRun(cfg, checkpoint_folder)
        knn = cfg.NEAREST_NEIGHBOR
        if knn.SIGMA <= 0:
            raise ConfigError(problem("config.NEAREST_NEIGHBOR.SIGMA", found=knn.SIGMA, allowed="numbers above 0"))
        labels, features = distributed.on_primary(lambda: _one_class_each(run)), {}
        for split in ("TRAIN", "TEST"):
            images = run.images(split)
            if split == "TRAIN" and not 1 <= knn.TOPK <= len(images):
                allowed = f"1 to {len(images)}, the samples of the training split"
                raise ConfigError(problem("config.NEAREST_NEIGHBOR.TOPK", found=knn.TOPK, allowed=allowed))
            features[split] = run.features(split, images)
        for layer in run.layers:
            _score(run, layer, features["TRAIN"][layer], features["TEST"][layer], labels)


def _one_class_each(run: BenchmarkRun) -> dict[str, np.ndarray]:
    labels = run.labels()
    if labels["TRAIN"].ndim == 2 and labels["TRAIN"].shape[1] == 1:
        labels = {split: array[:, 0] for split, array in labels.items()}
    if labels["TRAIN"].ndim != 1:
        found = f"labels of shape {labels['TRAIN'].shape}"
        raise DataError(problem("config.DATA.TRAIN", found=found, allowed="one class per sample"))
    return labels


def _score(run: BenchmarkRun, layer: str, train: LayerRows, test: LayerRows, labels: dict[str, np.ndarray]) -> None:
    knn = run.cfg.NEAREST_NEIGHBOR
    if len(train) < knn.TOPK:
        allowed = f"at most {len(train)}, the training samples that could be read"
        raise ConfigError(problem("config.NEAREST_NEIGHBOR.TOPK", found=knn.TOPK, allowed=allowed))
    train_labels, test_labels = labels["TRAIN"][train.samples], labels["TEST"][test.samples]
    num_classes = int(train_labels.max()) + 1
    rank, processes = distributed.rank(), distributed.world_size()
    mine = slice(len(test) * rank // processes, len(test) * (rank + 1) // processes)
    hits = np.zeros(2, dtype=np.int64)
    with distributed.errors_shared():
        if mine.stop > mine.start:
            ranks = true_class_ranks(
                LayerRows(test.store, test.samples[mine], test.columns),
                test_labels[mine],
                train,
                train_labels,
                num_neighbors=knn.TOPK,
                temperature=float(knn.SIGMA),
                similarity="cosine" if knn.L2_NORM_FEATS else "dot",
                device=run.device,
            )
            hits += [(ranks == 0).sum(), (ranks < 5).sum()]
    distributed.add_up(hits)
    similarity = "cosine similarity" if knn.L2_NORM_FEATS else "dot product of the features as they are"
    protocol = run.describe_features(layer, train, test) + (
        f"exact kNN; the {knn.TOPK} samples of the training split with the greatest {similarity} s, of equal ones the "
        f"first; each votes for its class with exp(s / {knn.SIGMA:g}) (Wu et al., CVPR 2018, section 3.4); of classes "
        "with equal votes the smallest number first, and none without a vote"
    )
    metrics = {"top-1 accuracy": hits[0]}
    if num_classes >= 5:
        metrics["top-5 accuracy"] = hits[1]
    elif distributed.is_primary():
        logger.info("Of %d classes the first five are all: no top-5 accuracy.", num_classes)
    rows = [
        {
            "benchmark": f"nearest neighbours, {layer}",
            "metric": metric,
            "value": float(count / len(test)),
            "protocol": protocol,
        }
        for metric, count in metrics.items()
    ]
    distributed.on_primary(lambda: run.append(rows))
