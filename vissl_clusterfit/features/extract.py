"""The extraction loop: from a data set and an encoder to a feature store, over any number of processes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from vissl_clusterfit import artifacts, distributed
from vissl_clusterfit.config import EncodingSettings
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.features.store import FeatureStore, FeatureStoreWriter, Shard, batches

logger = logging.getLogger(__name__)


class ImageSource(Protocol):
    """A map-style data set that says for each index whether its sample could be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, bool]: ...


Encoder = Callable[[torch.Tensor], torch.Tensor]


def extract_features(
    images: ImageSource,
    make_encoder: Callable[[], Encoder],
    folder: Path,
    inputs: Mapping[str, Any],
    settings: EncodingSettings,
    *,
    num_workers: int = 0,
) -> FeatureStore:
    """Extracts what is missing of a feature store; all processes of the run call this together.

    Args:
        images: the split, in its fixed order.
        make_encoder: gives the network that maps a batch of images to features of shape (B, D). It is called only
            where there is work to do.
        folder: of the store.
        inputs: what the features are made from.
        settings: batch and shard size, dtype, share of samples that may be unreadable.
        num_workers: processes that read images, per process of the run.

    Returns:
        The complete store.

    Raises:
        ArtifactError: the folder holds features of other inputs.
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
    if artifacts.has_manifest(folder):
        manifest = artifacts.read_manifest(folder, "feature_store")
        if manifest.get("complete"):
            store = FeatureStore.open(folder, inputs)
            logger.info("Features of %d samples are in %s already; nothing to extract.", store.num_samples, folder)
            return store
    writer = FeatureStoreWriter(
        folder, inputs, num_samples=len(images), shard_size=settings.shard_size, dtype=settings.dtype
    )
    writer.shard_size = distributed.on_primary(lambda: _begin(writer))
    mine = writer.missing()[distributed.rank() :: distributed.world_size()]
    distributed.barrier()
    if mine:
        _extract_shards(images, make_encoder(), writer, mine, settings, num_workers)
    distributed.barrier()
    distributed.on_primary(lambda: _finish(writer, settings))
    return FeatureStore.open(folder, inputs)


def _begin(writer: FeatureStoreWriter) -> int:
    writer.begin()
    done, total = len(writer.shards()) - len(writer.missing()), len(writer.shards())
    logger.info(
        "Extracting %d samples into %s: %d of %d shards are done.",
        writer.num_samples,
        writer.folder,
        done,
        total,
    )
    return writer.shard_size


def _finish(writer: FeatureStoreWriter, settings: EncodingSettings) -> None:
    done = (artifacts.read_json(writer.folder / shard.done_file) for shard in writer.shards())
    unreadable = sum(len(entry["unreadable"]) for entry in done)
    _require_readable(unreadable, writer, settings)
    if unreadable:
        logger.warning("%d of %d samples could not be read; they will have no label.", unreadable, writer.num_samples)
    writer.finish()


def _require_readable(unreadable: int, writer: FeatureStoreWriter, settings: EncodingSettings) -> None:
    share = unreadable / writer.num_samples
    if share > settings.max_unreadable:
        raise DataError(
            problem(
                "FEATURES.MAX_UNREADABLE",
                found=f"{unreadable} of {writer.num_samples} samples unreadable ({share:.1%})",
                allowed=f"at most {settings.max_unreadable:.1%}",
                remedy=f"Repair the data (the log names the files) and delete {writer.folder}, or raise the limit.",
            )
        )


def _extract_shards(
    images: ImageSource,
    encode: Encoder,
    writer: FeatureStoreWriter,
    shards: list[Shard],
    settings: EncodingSettings,
    num_workers: int,
) -> None:
    loader: DataLoader = DataLoader(
        images,  # type: ignore[arg-type]
        batch_sampler=list(batches(shards, settings.batch_size)),
        num_workers=num_workers,
        collate_fn=_collate,
    )
    progress = _Progress(sum(shard.stop - shard.start for shard in shards))
    num_unreadable = 0
    arriving = iter(loader)
    with torch.inference_mode():
        for shard in shards:
            rows: list[np.ndarray] = []
            unreadable: list[int] = []
            position = shard.start
            while position < shard.stop:
                pixels, readable = next(arriving)
                features = encode(pixels).float().cpu().numpy()
                features[~readable] = 0.0
                unreadable += [position + int(offset) for offset in np.flatnonzero(~readable)]
                rows.append(features)
                position += len(features)
                progress.add(len(features))
            writer.write(shard, np.concatenate(rows), unreadable)
            num_unreadable += len(unreadable)
            _require_readable(num_unreadable, writer, settings)
    progress.close()


def _collate(samples: list[tuple[torch.Tensor, bool]]) -> tuple[torch.Tensor, np.ndarray]:
    pixels, readable = zip(*samples, strict=True)
    shapes = sorted({tuple(image.shape) for image in pixels})
    if len(shapes) > 1:
        raise DataError(
            problem(
                "FEATURES.TRANSFORMS",
                found=f"transforms that give images of several shapes ({shapes[0]}, {shapes[1]})",
                allowed="transforms that give every image the same shape",
                remedy="Add Resize and CenterCrop.",
            )
        )
    return torch.stack(pixels), np.asarray(readable, dtype=bool)


class _Progress:
    """A bar with rate and time left on a terminal, a log line at every tenth elsewhere; on the primary process only."""

    def __init__(self, total: int) -> None:
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            unit=" samples",
            desc="Extracting",
            disable=not distributed.is_primary(),
            file=sys.stderr if on_terminal else _LogStream(),
            mininterval=0.5 if on_terminal else 30.0,
            ncols=None if on_terminal else 80,
        )

    def add(self, count: int) -> None:
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


class _LogStream:
    """Where tqdm writes when there is no terminal: each state of the bar becomes one plain log line."""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            logger.info("%s", line)

    def flush(self) -> None:
        return None
