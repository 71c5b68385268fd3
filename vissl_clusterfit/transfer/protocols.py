"""The protocols on the features of one layer: what each asks of labels, and its scores.

``clusterfit_transfer`` runs them, and the engines of VISSL's own benchmarks.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.features.layers import LayerRows
from vissl_clusterfit.progress import DETAIL
from vissl_clusterfit.report.results import OVER_DRAWS
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.result_cache import ResultCache, array_hash
from vissl_clusterfit.transfer import svm
from vissl_clusterfit.transfer.knn import knn_hits
from vissl_clusterfit.transfer.linear import linear_probe
from vissl_clusterfit.transfer.low_shot_probe import low_shot_probe
from vissl_clusterfit.transfer.metrics import clip_and_video_accuracy
from vissl_clusterfit.transfer.retrieval import category_retrieval, retrieval_protocol
from vissl_clusterfit.transfer.settings import TransferSettings
from vissl_clusterfit.transfer.taxonomy import Taxonomy, taxonomy_knn_accuracies

logger = logging.getLogger(__name__)

ACCURACY, MEAN_AP = "top-1 accuracy", "mAP"


@dataclass(frozen=True)
class LabelledRows:
    """Features of the samples that could be read, and their labels: one class each, (N,), or targets, (N, C)."""

    features: LayerRows
    labels: np.ndarray
    #: Which video each sample is of, where samples are clips.
    videos: np.ndarray | None = None

    @property
    def accuracy(self) -> str:
        """The name of the share of samples that are classified correctly."""
        return self.of_samples(ACCURACY)

    def of_samples(self, metric: str) -> str:
        """The name of a metric over samples."""
        return metric if self.videos is None else f"clip {metric}"


@dataclass(frozen=True)
class Score:
    """One row of the results."""

    benchmark: str
    metric: str
    value: float
    protocol: str


def check_labels(settings: TransferSettings, train: np.ndarray, test: np.ndarray) -> None:
    """Refuses, before any image is read, labels and settings that the protocols cannot take.

    Raises:
        ConfigError: more neighbours than training samples, or a level that the taxonomy lacks.
        DataError: labels of the wrong kind, or a taxonomy that does not cover them.
    """
    for name, labels in (("TRAIN", train), ("TEST", test)):
        for protocol in settings.protocols:
            dimensions, allowed = (2, "targets for each class") if protocol == "svm" else (1, "one class per sample")
            if labels.ndim != dimensions:
                found = f"labels of shape {labels.shape} for the protocol {protocol}"
                raise DataError(problem(f"config.DATA.{name}.LABEL_PATHS", found=found, allowed=allowed))
    if {"knn", "taxonomy_knn"} & set(settings.protocols) and settings.knn.num_neighbors > len(train):
        allowed = f"1 to {len(train)}, the samples of the training split"
        raise ConfigError(
            problem("config.TRANSFER.KNN.NUM_NEIGHBORS", found=settings.knn.num_neighbors, allowed=allowed)
        )
    if "svm" in settings.protocols:
        num_classes = train.shape[1]
        if unknown := [number for number in settings.svm.classes if not 0 <= number < num_classes]:
            allowed = f"0 to {num_classes - 1}"
            raise ConfigError(problem("config.TRANSFER.SVM.CLASSES", found=unknown, allowed=allowed))
    if "taxonomy_knn" in settings.protocols:
        taxonomy = _taxonomy(settings)
        most = int(max(train.max(), test.max()))
        if most >= len(taxonomy.classes):
            found = f"{len(taxonomy.classes)} classes, and labels up to {most}"
            raise DataError(problem(settings.taxonomy.file, found=found, allowed="an entry for every class"))


def run_protocol(
    name: str,
    train: LabelledRows,
    test: LabelledRows,
    settings: TransferSettings,
    cache: ResultCache,
    device: torch.device,
) -> list[Score]:
    """The scores of one protocol on one layer; what was computed before from the same is not computed again.

    Called by all processes together: they share the queries of nearest neighbours and the classes of SVMs.

    Args:
        name: of PROTOCOLS.
        train: what is fitted on, or the gallery.
        test: what is scored, once.
        settings: ``config.TRANSFER``.
        cache: what is computed already.
        device: for nearest neighbours and retrieval.
    """
    inputs = {
        "features": [split.features.store.content_hash for split in (train, test)],
        "labels": [array_hash(split.labels) for split in (train, test)],
        "videos": test.videos is not None and array_hash(test.videos),
        "settings": asdict(getattr(settings, "knn" if name == "taxonomy_knn" else name)),
    }
    if name == "taxonomy_knn":
        inputs["taxonomy"] = asdict(_taxonomy(settings)) | {"levels": settings.taxonomy.levels}

    found = distributed.on_primary(lambda: cache.find(name, inputs))
    if found is None:
        if name == "svm":
            scores = _svm(train, test, settings, cache, inputs)
        elif name == "knn":
            scores = _knn(train, test, settings, device)
        else:
            scores = distributed.on_primary(lambda: _ON_PRIMARY[name](train, test, settings, device))
        found = [asdict(score) for score in scores]
        distributed.on_primary(lambda: cache.store(name, inputs, found))
    return [Score(**score) for score in found]


def _linear(train: LabelledRows, test: LabelledRows, settings: TransferSettings, device: torch.device) -> list[Score]:
    probe = linear_probe(train.features[:], train.labels, test.features[:], test.labels, settings.linear)
    protocol = settings.linear.protocol()
    found = [Score("linear", test.accuracy, probe.accuracy, protocol)]
    if test.videos is not None:
        scores = np.zeros((len(test.labels), int(probe.classes.max()) + 1))
        scores[:, probe.classes] = probe.probabilities
        name = f"video {ACCURACY}"
        of_videos = clip_and_video_accuracy(scores, test.labels, test.videos)[name]
        found.append(Score("linear", name, of_videos, f"{protocol}; probabilities averaged over clips"))
    return found


def _knn(train: LabelledRows, test: LabelledRows, settings: TransferSettings, device: torch.device) -> list[Score]:
    _require_neighbors(train, settings)
    rank, processes, rows = distributed.rank(), distributed.world_size(), test.features
    mine = slice(len(rows) * rank // processes, len(rows) * (rank + 1) // processes)
    hits = np.zeros(len(settings.knn.topk), dtype=np.int64)
    with distributed.errors_shared():
        if mine.stop > mine.start:
            queries = replace(rows, samples=rows.samples[mine])
            hits += knn_hits(queries, test.labels[mine], train.features, train.labels, settings.knn, device=device)
    distributed.add_up(hits)
    num_classes, scores = int(train.labels.max()) + 1, []
    for k, count in zip(settings.knn.topk, hits, strict=True):
        if 1 < k > num_classes:
            logger.info("Of %d classes the first %d are all: no top-%d accuracy.", num_classes, k, k)
            continue
        metric = test.of_samples(f"top-{k} accuracy")
        scores.append(Score("knn", metric, float(count / len(rows)), settings.knn.protocol()))
    return scores


def _taxonomy_knn(
    train: LabelledRows, test: LabelledRows, settings: TransferSettings, device: torch.device
) -> list[Score]:
    _require_neighbors(train, settings)
    taxonomy = _taxonomy(settings)
    levels = settings.taxonomy.levels or list(taxonomy.levels)
    data = (test.features, test.labels, train.features, train.labels)
    found = taxonomy_knn_accuracies(*data, taxonomy, levels, settings.knn, device=device)
    return [
        Score(f"knn, {level}", ACCURACY, value, f"{settings.knn.protocol()}; classes are those of the level {level}")
        for level, value in found.items()
    ]


def _require_neighbors(train: LabelledRows, settings: TransferSettings) -> None:
    if settings.knn.num_neighbors > len(train.labels):
        allowed = f"1 to {len(train.labels)}, the training samples that could be read"
        raise ConfigError(
            problem("config.TRANSFER.KNN.NUM_NEIGHBORS", found=settings.knn.num_neighbors, allowed=allowed)
        )


def _retrieval(
    train: LabelledRows, test: LabelledRows, settings: TransferSettings, device: torch.device
) -> list[Score]:
    who = settings.retrieval.gallery
    gallery = (train.features, train.labels) if who == "train" else (None, None)
    found = category_retrieval(test.features, test.labels, *gallery, device=device)
    protocol = retrieval_protocol(who, found.num_without_match)
    return [Score("retrieval", MEAN_AP, found.mean_average_precision, protocol)]


def _low_shot(train: LabelledRows, test: LabelledRows, settings: TransferSettings, device: torch.device) -> list[Score]:
    data = (train.features[:], train.labels, test.features[:], test.labels)
    scores = []
    for k in settings.low_shot.shots:
        found = low_shot_probe(*data, k, settings.low_shot)
        benchmark, protocol = f"low-shot, k = {k}", settings.low_shot.protocol(k)
        scores.append(Score(benchmark, ACCURACY, found.interval.mean, protocol))
        scores.append(Score(benchmark, ACCURACY + OVER_DRAWS, found.interval.half_width, protocol))
    return scores


def _svm(
    train: LabelledRows, test: LabelledRows, settings: TransferSettings, cache: ResultCache, inputs: dict
) -> list[Score]:
    """One SVM per class; each class is cached when it is done."""
    data = [(split.features[:], split.labels) for split in (train, test)]
    classes = settings.svm.classes or range(train.labels.shape[1])
    svm.check_targets(data[0], data[1], classes, settings.svm.folds)
    (train_x, train_y), (test_x, test_y) = ((svm.scaled(x, settings.svm), y) for x, y in data)

    def score(number: int) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            targets = train_y[:, number], test_y[:, number]
            return asdict(svm.score_svm_class(train_x, targets[0], test_x, targets[1], settings.svm))

        result = cache.get(f"class_{number}", inputs, make)
        logger.info("Class %d: average precision %.4f.", number, result["average_precision"], extra=DETAIL)
        return result

    found = svm.by_all_processes([functools.partial(score, number) for number in classes], "classes")
    if unconverged := sum(not result["converged"] for result in found):
        logger.warning("%d iterations were too few for the SVMs of %d classes.", settings.svm.max_iter, unconverged)
    value = float(np.mean([result["average_precision"] for result in found]))
    return [Score("svm", MEAN_AP, value, settings.svm.protocol())]


def _taxonomy(settings: TransferSettings) -> Taxonomy:
    taxonomy = Taxonomy.load(artifact_path(settings.taxonomy.file, "config.TRANSFER.TAXONOMY.FILE"))
    taxonomy.require(settings.taxonomy.levels, "config.TRANSFER.TAXONOMY.LEVELS")
    return taxonomy


_ON_PRIMARY: dict[str, Callable[[LabelledRows, LabelledRows, TransferSettings, torch.device], list[Score]]] = {
    "linear": _linear,
    "taxonomy_knn": _taxonomy_knn,
    "retrieval": _retrieval,
    "low_shot": _low_shot,
}
