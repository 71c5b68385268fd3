"""The extraction loop: from a data set and an encoder to a feature store, over any number of processes."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vissl_clusterfit import distributed
from vissl_clusterfit.config.features import AUTO_BATCH, EncodingSettings
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.features.batch_size import FIXED, batch_size_on
from vissl_clusterfit.features.batches import Encoder, ImageSource
from vissl_clusterfit.features.pipeline import SHOWN, Pipeline, described
from vissl_clusterfit.features.progress import ExtractionProgress
from vissl_clusterfit.features.sample_list import require_same_samples
from vissl_clusterfit.features.sample_names import NameList
from vissl_clusterfit.features.store import KIND, FeatureStore
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.storage import artifacts

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
_SHARD_SIZE, _NUM_SMALL_SHARDS = 4096, 16


def extract_features(
    images: ImageSource,
    make_encoder: Callable[[], Encoder],
    folder: Path,
    inputs: Mapping[str, Any],
    settings: EncodingSettings,
    *,
    num_workers: int | None = 0,
    processes: int = 1,
    names: NameList | None = None,
    device: str = "cpu",
) -> FeatureStore:
    """Extracts what is missing of a feature store; all processes of the run call this together.

    Processes of other runs on the same folder take part: whoever is free takes the next shard.

    Args:
        images: the split, in its fixed order.
        make_encoder: gives the network that maps a batch of images to features of shape (B, D). It is called only
            where there is work to do.
        folder: of the store.
        inputs: what the features are made from.
        settings: batch and shard size, dtype, share of samples that may be unreadable.
        num_workers: processes that read images, per process of the run; None for as many as measure to be enough for
            the network (``readers.py``). The features are the same.
        processes: of the run on this machine, which share its cores.
        names: of the samples, to be kept in the store; None where they are not.
        device: on which the network computes, "cpu" or "cuda".

    Returns:
        The complete store.

    Raises:
        ArtifactError: the folder holds features of other inputs, or cannot be written.
        DataError: the data set is empty, too many samples are unreadable, or features are not finite.
    """
    if len(images) == 0:
        raise DataError(
            problem(
                "config.DATA",
                found="an empty data set",
                allowed="one sample or more",
                remedy="Check DATA_PATHS.",
            )
        )
    size = settings.shard_size or _default_shard_size(len(images), settings.batch_size or FIXED)
    writer = FeatureStoreWriter(folder, inputs, images.samples, shard_size=size, dtype=settings.dtype, names=names)
    complete = distributed.on_primary(lambda: _begin(writer, images))
    # Each node may have a copy of the data of its own, and they must be the same.
    require_same_samples(writer.folder, images.samples, images.name_of)
    if complete:
        store = FeatureStore.open(folder, inputs)
        logger.info("Features of %d samples are in %s already; nothing to extract.", store.num_samples, folder)
        return store
    writer.begin()
    missing = writer.missing()
    if missing:
        make_once = functools.cache(make_encoder)
        if settings.batch_size == AUTO_BATCH:
            size = batch_size_on(device, lambda some: make_once()(some), images)
            settings = dataclasses.replace(settings, batch_size=size)
        cores = max(1, len(os.sched_getaffinity(0)) // processes)
        pipeline = Pipeline(images, make_once, writer, settings, num_workers, device, cores)
        with ExtractionProgress(writer, missing) as progress:
            while missing := writer.missing():
                if not pipeline.extract(missing, progress.add, functools.partial(_require_readable, writer, settings)):
                    time.sleep(_LOOK_AGAIN_S)  # the rest is being done by others; what they drop will be free again
            progress.complete()
        if pipeline.spent.num_samples:
            logger.info("%s", pipeline.spent)
    distributed.barrier()
    distributed.on_primary(lambda: _finish(writer, settings, images))
    return FeatureStore.open(folder, inputs)


def _default_shard_size(num_samples: int, batch_size: int) -> int:
    """A kill loses two shards at most, which are small for few samples; batches are those of one shard of all."""
    num_batches = math.ceil(num_samples / batch_size)
    small = batch_size * math.ceil(num_batches / _NUM_SMALL_SHARDS)
    return min(small, _SHARD_SIZE) if num_samples <= _SHARD_SIZE else _SHARD_SIZE


def _begin(writer: FeatureStoreWriter, images: ImageSource) -> bool:
    """Begins a store, or resumes the one that is there; whether it is complete."""
    if writer.forget_empty():
        logger.info("%s was begun for other data or settings and has no row yet: it is begun again.", writer.folder)
    if artifacts.has_manifest(writer.folder):
        require_same_samples(writer.folder, images.samples, images.name_of)
    writer.begin()
    if artifacts.read_manifest(writer.folder, KIND).get("complete"):
        return True
    logger.info(
        "Extracting %d samples into %s: %d of %d shards are done.",
        writer.num_samples,
        writer.folder,
        len(writer.shards()) - len(writer.missing()),
        len(writer.shards()),
    )
    return False


def _finish(writer: FeatureStoreWriter, settings: EncodingSettings, images: ImageSource) -> None:
    unreadable = 0
    examples: list[str] = []
    for shard in writer.shards():
        reasons = writer.read_done(shard)["unreadable"]
        unreadable += len(reasons)
        examples += [described(images, int(index), reasons[index]) for index in [*reasons][: SHOWN - len(examples)]]
    _require_readable(writer, settings, unreadable, examples)
    if unreadable:
        logger.warning("%d of %d samples could not be read; they will have no label.", unreadable, writer.num_samples)
    writer.finish()


def _require_readable(
    writer: FeatureStoreWriter, settings: EncodingSettings, unreadable: int, examples: Sequence[str]
) -> None:
    share = unreadable / writer.num_samples
    if share > settings.max_unreadable:
        raise DataError(
            problem(
                "FEATURES.MAX_UNREADABLE",
                found=f"{unreadable} of {writer.num_samples} samples unreadable ({share:.1%}), among them "
                + "; ".join(examples),
                allowed=f"at most {settings.max_unreadable:.1%}",
                remedy=f"Repair the data and move {writer.folder} away, or raise the limit.",
            )
        )
