"""``engine_name: clusterfit_svm | clusterfit_low_shot_svm``: VISSL's benchmarks with linear SVMs.

The first runs ``benchmark/linear_image_classification/voc07/…``, the second ``benchmark/low_shot_transfer/…_svm``.
Each process takes its share of the classes, or of the draws; what is done is cached in ``<folder>/svm``, so that a run
that is started again resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, naming_settings, problem
from vissl_clusterfit.features.layers import LayerRows
from vissl_clusterfit.plugin.benchmarks.run import SETTINGS_NAMES, BenchmarkRun
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.engines.base import StageEngine
from vissl_clusterfit.report.results import OVER_DRAWS
from vissl_clusterfit.storage.result_cache import ResultCache, array_hash
from vissl_clusterfit.transfer import low_shot_svm, svm
from vissl_clusterfit.transfer.protocols import Score
from vissl_clusterfit.transfer.settings import TransferSettings
from vissl_clusterfit.transfer.svm import SvmSettings

logger = logging.getLogger(__name__)


# What VISSL calls what our settings are called.
_VISSLS_NAMES = {
    r"config\.SVM\.COSTS": "config.SVM.costs",
    r"config\.SVM\.FOLDS": "config.SVM.cross_val_folds",
    r"config\.SVM\.LOSS": "config.SVM.loss",
    r"config\.SVM\.MAX_ITER": "config.SVM.max_iter",
    r"config\.SVM\.PENALTY": "config.SVM.penalty",
}


def svm_settings(block: Mapping[str, Any]) -> SvmSettings:
    """VISSL's block ``config.SVM``; the powers of ``costs.base`` are costs, too.

    Raises:
        ConfigError: a value that liblinear does not take.
    """
    costs = [float(cost) for cost in block["costs"]["costs_list"]]
    base = float(block["costs"]["base"])
    if base > 0:
        first, end = block["costs"]["power_range"]
        costs += [base**power for power in range(first, end)]
    found = {
        "COSTS": costs,
        "NORMALIZE": bool(block["normalize"]),
        "LOSS": block["loss"],
        "PENALTY": block["penalty"],
        "DUAL": bool(block["dual"]),
        "MAX_ITER": int(block["max_iter"]),
        "FOLDS": int(block["cross_val_folds"]),
        "CLASSES": [int(number) for number in block["cls_list"]],
    }
    with naming_settings(_VISSLS_NAMES):
        return read_settings(SvmSettings, found, "config.SVM")


class SvmEngine(StageEngine):
    """One SVM per class on each layer, the cost chosen by cross-validation, scored by mean average precision."""

    settings_names: ClassVar[Mapping[str, str]] = {
        **SETTINGS_NAMES,
        r"config\.TRANSFER\.SVM\.CLASSES": "config.SVM.cls_list",
    }

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Extracts what is missing, and records the mean average precision of each layer in ``results.json``."""
        settings = svm_settings(cfg.SVM)
        run = BenchmarkRun(cfg, checkpoint_folder)
        run.run_protocol(
            "svm", "SVM", TransferSettings(protocols=["svm"], svm=settings), distributed.on_primary(run.labels)
        )


class LowShotSvmEngine(StageEngine):
    """SVMs on a few samples per class, over several draws of them."""

    settings_names = SETTINGS_NAMES

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Extracts what is missing, and appends mean and range over the draws, for each k and layer."""
        settings = svm_settings(cfg.SVM)
        shots = cfg.SVM.low_shot
        numbers, draws = [int(k) for k in shots.k_values], [int(draw) for draw in shots.sample_inds]
        if not numbers or not draws or min(numbers) < 1 or min(draws) < 0:
            found = f"k_values {numbers}, sample_inds {draws}"
            raise ConfigError(problem("config.SVM.low_shot", found=found, allowed="k from 1, sample_inds from 0"))
        run = BenchmarkRun(cfg, checkpoint_folder)
        labels = distributed.on_primary(run.labels)
        kinds = {split: array.reshape(len(array), -1) for split, array in labels.items()}
        one_class_each = kinds["TRAIN"].shape[1] == 1
        seeds = [(k, draw, (cfg.SEED_VALUE, draw, k)) for k in numbers for draw in draws]
        images = run.images("TRAIN")
        if one_class_each:
            train_labels, test_labels = kinds["TRAIN"][:, 0], kinds["TEST"][:, 0]
            drawn = {(k, draw): low_shot_svm.draw_samples(train_labels, k, seed) for k, draw, seed in seeds}
            union = functools.reduce(np.union1d, drawn.values())
            features = run.features("TRAIN", SomeImages(images, union), name="train_drawn")
            num_classes = int(train_labels.max()) + 1
            test_targets = low_shot_svm.one_hot_targets(test_labels, num_classes)

            def targets_of(k: int, draw: int) -> np.ndarray:
                is_drawn = np.isin(union, drawn[k, draw])
                return low_shot_svm.one_hot_targets(np.where(is_drawn, train_labels[union], -1), num_classes)

            taken = "k samples of each class, those of other classes its negatives"
        else:
            features = run.features("TRAIN", images)
            test_targets = kinds["TEST"]
            drawings = {(k, draw): low_shot_svm.draw_targets(kinds["TRAIN"], k, seed) for k, draw, seed in seeds}

            def targets_of(k: int, draw: int) -> np.ndarray:
                return drawings[k, draw]

            taken = "k positives and (classes - 1) * k negatives of each class"
        test_features = run.features("TEST", run.images("TEST"))
        for layer in run.layers:
            splits = {"TRAIN": features[layer], "TEST": test_features[layer]}
            _score_draws(run, layer, splits, targets_of, test_targets, (numbers, draws, taken), settings)


def _score_draws(
    run: BenchmarkRun,
    layer: str,
    features: Mapping[str, LayerRows],
    targets_of: Callable[[int, int], np.ndarray],
    test_targets: np.ndarray,
    plan: tuple[list[int], list[int], str],
    settings: SvmSettings,
) -> None:
    numbers, draws, taken = plan
    rows = {split: svm.scaled(part[:], settings) for split, part in features.items()}
    readable = {split: part.samples for split, part in features.items()}
    wanted = test_targets[readable["TEST"]]
    cache = _cache(run, layer, features, settings)

    def score(k: int, draw: int) -> np.ndarray:
        targets = targets_of(k, draw)[readable["TRAIN"]]
        svm.check_targets((rows["TRAIN"], targets), (rows["TEST"], wanted), range(targets.shape[1]), 1)

        def make() -> dict[str, Any]:
            return {"figures": low_shot_svm.score_draw(rows["TRAIN"], targets, rows["TEST"], wanted, settings).tolist()}

        hashes = {"targets": [array_hash(targets), array_hash(wanted)]}
        return np.array(cache.get(f"draw_{draw}_k{k}", hashes, make)["figures"])

    pairs = [(k, draw) for k in numbers for draw in draws]
    found = svm.by_all_processes([functools.partial(score, *pair) for pair in pairs], "draws")
    scores = dict(zip(pairs, found, strict=True))
    where = run.describe_features(layer, features["TRAIN"], features["TEST"])
    report = []
    for k in numbers:
        result = low_shot_svm.summarize_draws(np.stack([scores[k, draw] for draw in draws]), settings)
        protocol = where + low_shot_svm.low_shot_protocol(settings, k, len(draws), taken)
        mean = "mAP, mean of the draws"
        for metric, value in (
            (mean, result.mean),
            ("mAP, least of the draws", result.least),
            ("mAP, greatest of the draws", result.greatest),
            ("mAP, standard deviation of the draws", result.deviation),
            (mean + OVER_DRAWS, result.half_width),
        ):
            if value is None:  # of one draw
                continue
            benchmark = f"low-shot SVM, k = {k}, {layer}"
            report.append(Score(benchmark, metric, value, protocol))
    if distributed.is_primary():
        run.record(report)


def _cache(run: BenchmarkRun, layer: str, features: Mapping[str, LayerRows], settings: SvmSettings) -> ResultCache:
    stores = {split: rows.store.content_hash for split, rows in features.items()}
    return ResultCache(run.folder / "svm" / layer, {"features": stores, "settings": dataclasses.asdict(settings)})


class SomeImages:
    """The images at ``indices``, ascending, of ``images``."""

    #: Their names are those of the split.
    name_list = None

    def __init__(self, images: SplitImages, indices: np.ndarray) -> None:
        self._images, self._indices = images, indices
        self.clips = images.clips

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self._images[int(self._indices[index])]

    @property
    def samples(self) -> np.ndarray:
        """The part of the ordered sample list."""
        return self._images.samples[self._indices]

    @property
    def num_ignored_orientations(self) -> int:
        """As of all images: those that were read."""
        return self._images.num_ignored_orientations

    def name_of(self, index: int) -> str:
        """The name of a sample."""
        return self._images.name_of(int(self._indices[index]))
