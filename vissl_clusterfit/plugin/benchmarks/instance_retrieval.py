"""``engine_name: clusterfit_retrieval``: VISSL's benchmarks of instance retrieval (``benchmark/instance_retrieval/…``).

Data sets, image loading, descriptors (R-MAC, GeM), PCA and scores are VISSL's own functions, which run anywhere; its
script runs on a GPU only. The primary process works, as the images differ in size and are taken one by one.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import g_pathmgr
from vissl.config import AttrDict
from vissl.utils.instance_retrieval_utils import data_util

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.images.decode import UnreadablePixels
from vissl_clusterfit.plugin.benchmarks.run import SETTINGS_NAMES, TRUNK, BenchmarkRun
from vissl_clusterfit.plugin.data.image_files import ImageFiles
from vissl_clusterfit.plugin.engines.base import StageEngine
from vissl_clusterfit.plugin.models.encoder import HEAD_LAYER
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.transfer.protocols import Score

logger = logging.getLogger(__name__)

_REVISITED = ("roxford5k", "rparis6k")
_COPYDAYS = "copydays"
_DIFFICULTIES = {"e": "easy", "m": "medium", "h": "hard"}


class RetrievalEngine(StageEngine):
    """Ranks the images of a data base by their likeness to each query."""

    settings_names = SETTINGS_NAMES

    def run_stage(self, cfg: AttrDict, checkpoint_folder: str) -> None:
        """Appends mean average precisions to ``results.json``."""
        run = BenchmarkRun(cfg, checkpoint_folder)
        distributed.on_primary(lambda: _evaluate(run))


def _evaluate(run: BenchmarkRun) -> None:
    block = run.cfg.IMG_RETRIEVAL
    # VISSL's script: a module of the wheel, with the functions that its main function calls.
    script = importlib.import_module("tools.instance_retrieval_test")
    _check_settings(run, script)
    read_as_other_engines()
    with _data_errors():
        root, evaluated = block.DATASET_PATH, block.EVAL_DATASET_NAME
        train_set = script.get_train_dataset(run.cfg, root, block.TRAIN_DATASET_NAME, block.EVAL_BINARY_PATH)
        eval_set = script.get_eval_dataset(run.cfg, root, evaluated, block.EVAL_BINARY_PATH)
    loader = script.InstanceRetrievalImageLoader(
        S=block.RESIZE_IMG, transforms=script.get_transforms(run.cfg, evaluated)
    )
    network, pca = run.layer_maps(), None
    shared = (block.RESIZE_IMG, block.SPATIAL_LEVELS, loader)
    num_images = _most(eval_set.get_num_query_images(), block.NUM_QUERY_SAMPLES)
    num_images += _most(eval_set.get_num_images(), block.NUM_DATABASE_SAMPLES)
    if train_set is not None:
        num_images += _most(train_set.get_num_images(), block.NUM_TRAINING_SAMPLES)
    progress = Progress("Instance retrieval", num_images, "images")
    with torch.inference_mode(), _any_device(script, run.device, progress), _data_errors(), progress:
        if train_set is not None:
            rows = script.get_train_features(run.cfg, None, block.TRAIN_DATASET_NAME, *shared, train_set, network)
            if not 1 <= block.N_PCA <= rows.shape[1]:
                allowed = f"1 to {rows.shape[1]}, the width of the layer"
                raise ConfigError(problem("config.IMG_RETRIEVAL.N_PCA", found=block.N_PCA, allowed=allowed))
            pca = script.train_and_save_pca(rows, block.N_PCA, None)
        queries = script.get_queries_features(run.cfg, None, evaluated, *shared, eval_set, network, pca)
        database = script.get_dataset_features(run.cfg, None, evaluated, *shared, eval_set, network, pca)
    if block.SIMILARITY_MEASURE == "cosine_similarity":
        likeness = queries.dot(database.T)
    else:
        likeness = -script.compute_l2_distance_matrix(queries, database)
    scores = eval_set.score(likeness, None)
    if block.SAVE_RETRIEVAL_RANKINGS_SCORES:
        artifacts.write_json(run.folder / "rankings.json", np.argsort(-likeness, axis=1).tolist())
    scores = _revisited(scores) if evaluated in _REVISITED else _copydays(scores)
    rows = []
    for metric, value in scores.items():
        if np.isfinite(value):
            benchmark = f"instance retrieval, {run.layers[0]}"
            protocol = run.describe_features(run.layers[0]) + _protocol(block)
            rows.append(Score(benchmark, metric, float(value), protocol))
        else:
            logger.warning("No query of %s has a match for: %s. There is no such score.", evaluated, metric)
    run.record(rows, evaluated)


def read_as_other_engines() -> None:
    """Has VISSL's loader read 16 bits of grey for what they show."""
    data_util.Image = ImageFiles()


def _check_settings(run: BenchmarkRun, script: Any) -> None:
    block = run.cfg.IMG_RETRIEVAL
    supported = (*_REVISITED, _COPYDAYS)
    if block.EVAL_DATASET_NAME not in supported:
        remedy = "Oxford and Paris are scored by a program of their authors, and VISSL's reader of INSTRE fails."
        name = "config.IMG_RETRIEVAL.EVAL_DATASET_NAME"
        raise ConfigError(problem(name, found=block.EVAL_DATASET_NAME, allowed=" | ".join(supported), remedy=remedy))
    if len(run.layers) != 1 or run.layers[0] in (HEAD_LAYER, TRUNK):
        name = "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
        raise ConfigError(problem(name, found=run.layers, allowed='one layer, as [["res5", ["Identity", []]]]'))
    try:
        script.validate_and_infer_config(run.cfg)
    except AssertionError as error:
        raise ConfigError(f"config.IMG_RETRIEVAL: VISSL refuses it: {error}") from None
    if block.SAVE_FEATURES:
        logger.warning("config.IMG_RETRIEVAL.SAVE_FEATURES has no effect: VISSL's files do not say of which network.")
    names = (
        {block.EVAL_DATASET_NAME, block.TRAIN_DATASET_NAME} if block.TRAIN_PCA_WHITENING else {block.EVAL_DATASET_NAME}
    )
    for name in names:
        folder = f"{block.DATASET_PATH}/{name}"
        if not g_pathmgr.isdir(folder):
            found = f"{block.DATASET_PATH}, which has no folder {name}"
            raise DataError(problem("config.IMG_RETRIEVAL.DATASET_PATH", found=found, allowed="the folder above it"))
        truth = f"{folder}/gnd_{name}.pkl"
        if name in _REVISITED and not g_pathmgr.isfile(truth):
            raise DataError(f"{truth} is missing: the ground truth of the data set.")


@contextlib.contextmanager
def _data_errors() -> Iterator[None]:
    try:
        yield
    except (AssertionError, OSError, UnreadablePixels) as error:
        raise DataError(f"config.IMG_RETRIEVAL: the data cannot be read: {error}") from None


@contextlib.contextmanager
def _any_device(script: Any, device: torch.device, progress: Progress) -> Iterator[None]:
    """The one function of VISSL's script that asks for a GPU, with the device of this run; each call is an image."""

    def maps_at_scales(image: torch.Tensor, network: Callable[[torch.Tensor], list], scales: list) -> list:
        resized = (
            torch.nn.functional.interpolate(image[None], scale_factor=scale, mode="bilinear", align_corners=False)
            for scale in scales
        )
        progress.add(1)
        return [network(images.to(device))[0].cpu() for images in resized]

    original, script.extract_activation_maps = script.extract_activation_maps, maps_at_scales
    try:
        yield
    finally:
        script.extract_activation_maps = original


def _revisited(scores: dict[str, Any]) -> dict[str, float]:
    found = {f"mAP, {name}": scores["mAP"][key] for key, name in _DIFFICULTIES.items()}
    for key, name in _DIFFICULTIES.items():
        for k, value in zip(scores["mp@k"]["k"], scores["mp@k"][key], strict=True):
            found[f"mP@{k}, {name}"] = value
    return found


def _copydays(scores: dict[str, Any]) -> dict[str, float]:
    if not scores:
        raise DataError(
            "config.IMG_RETRIEVAL: no query of Copydays has a match in the data base: check the file names."
        )
    return {f"mAP, {attack}": score["mAP"] for attack, score in scores.items()}


def _protocol(block: AttrDict) -> str:
    kind = block.FEATS_PROCESSING_TYPE
    descriptor = {
        "rmac": f"R-MAC with {block.SPATIAL_LEVELS} levels (Tolias et al., ICLR 2016)",
        "gem": f"GeM pooling with p = {block.GEM_POOL_POWER:g} and a bias channel",
    }.get(kind, "the layer, flattened")
    whitening = f"PCA whitening to {block.N_PCA} dimensions fitted on {block.TRAIN_DATASET_NAME}"
    return "; ".join(
        [
            f"images scaled to {block.RESIZE_IMG} pixels on the longer side, scalings {list(block.IMG_SCALINGS)}",
            descriptor,
            whitening if block.TRAIN_PCA_WHITENING else "no whitening",
            "unit L2 norm" if block.NORMALIZE_FEATURES else "norms as they are",
            block.SIMILARITY_MEASURE,
            "queries cropped to their region" if block.CROP_QUERY_ROI else "whole queries",
            f"{_limit(block.NUM_QUERY_SAMPLES)} queries and {_limit(block.NUM_DATABASE_SAMPLES)} data base images",
            "average precision by trapezoids, as VISSL's compute_map (Radenović et al., CVPR 2018)",
        ]
    )


def _most(count: int, limit: int) -> int:
    return count if limit == -1 else min(count, limit)


def _limit(count: int) -> str:
    return "all" if count == -1 else f"the first {count}"
