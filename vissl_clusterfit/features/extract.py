"""The extraction loop: from a data set and an encoder to a feature store, over any number of processes."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from vissl_clusterfit import distributed
from vissl_clusterfit.config.clusterfit import EncodingSettings
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.features.progress import ExtractionProgress
from vissl_clusterfit.features.sample_list import require_same_samples
from vissl_clusterfit.features.sample_names import NameList
from vissl_clusterfit.features.store import KIND, FeatureStore, Shard
from vissl_clusterfit.features.worker_init import end_with_parent
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.leases import Lease

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
_SHOWN = 5
_SHARD_SIZE, _NUM_SMALL_SHARDS = 4096, 16


class ImageSource(Protocol):
    """A map-style data set that says for each index whether its sample could be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """The image (C, H, W), and why it could not be read: "" if it could.

        Of a sample of several images all of them, (num_images, C, H, W): its feature is the mean of theirs. So it is of
        clips of a video, (num_clips, C, T, H, W), of one clip alone, too.
        """

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,); see ``features/sample_list.py``."""

    def name_of(self, index: int) -> str:
        """The name of a sample, for messages."""


Encoder = Callable[[torch.Tensor], torch.Tensor]


def extract_features(
    images: ImageSource,
    make_encoder: Callable[[], Encoder],
    folder: Path,
    inputs: Mapping[str, Any],
    settings: EncodingSettings,
    *,
    num_workers: int = 0,
    names: NameList | None = None,
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
        num_workers: processes that read images, per process of the run.
        names: of the samples, to be kept in the store; None where they are not.

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
    size = settings.shard_size or _default_shard_size(len(images), settings.batch_size)
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
        encode = make_encoder()
        progress = ExtractionProgress(writer, missing)
        with progress:
            while missing := writer.missing():
                if not _extract_free_shards(images, encode, writer, missing, settings, num_workers, progress):
                    time.sleep(_LOOK_AGAIN_S)  # the rest is being done by others; what they drop will be free again
            progress.complete()
    distributed.barrier()
    distributed.on_primary(lambda: _finish(writer, settings, images))
    return FeatureStore.open(folder, inputs)


def _default_shard_size(num_samples: int, batch_size: int) -> int:
    """A kill loses one shard of a few samples at most; batches are those of one shard of all."""
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
        examples += [_described(images, int(index), reasons[index]) for index in [*reasons][: _SHOWN - len(examples)]]
    _require_readable(unreadable, writer, settings, examples)
    if unreadable:
        logger.warning("%d of %d samples could not be read; they will have no label.", unreadable, writer.num_samples)
    writer.finish()


def _described(images: ImageSource, index: int, reason: str) -> str:
    return f"{images.name_of(index)} ({reason})"


def _require_readable(
    unreadable: int, writer: FeatureStoreWriter, settings: EncodingSettings, examples: Sequence[str]
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


class _Claims:
    """Shards that this process takes one after the other, as batches of indices.

    Batches never cross the end of a shard, so that a sample is always in the same batch, whoever extracts it. A data
    loader asks for batches ahead of time; the shard that is written next is the first in ``taken``.
    """

    def __init__(self, writer: FeatureStoreWriter, missing: list[Shard], batch_size: int) -> None:
        # Every process begins at another place, so that they do not all ask for the same shard. It then helps the one
        # before from behind: where there are no leases, two that went the same way would do the same work.
        rank, processes = distributed.rank(), distributed.world_size()
        begin, end = len(missing) * rank // processes, len(missing) * (rank + 1) // processes
        self._candidates = iter([*missing[begin:end], *reversed([*missing[end:], *missing[:begin]])])
        self._writer = writer
        self._batch_size = batch_size
        self.taken: deque[tuple[Shard, Lease]] = deque()

    def take(self) -> tuple[Shard, Lease] | None:
        """Takes the next shard that is free; None if there is none."""
        claim = self._writer.claim(self._candidates)
        if claim is not None:
            self.taken.append(claim)
        return claim

    def __iter__(self) -> Iterator[list[int]]:
        claim = self.taken[0] if self.taken else self.take()
        while claim is not None:
            shard, _ = claim
            for start in range(shard.start, shard.stop, self._batch_size):
                yield list(range(start, min(start + self._batch_size, shard.stop)))
            claim = self.take()


def _extract_free_shards(
    images: ImageSource,
    encode: Encoder,
    writer: FeatureStoreWriter,
    missing: list[Shard],
    settings: EncodingSettings,
    num_workers: int,
    progress: ExtractionProgress,
) -> int:
    """Extracts shards until none is free; how many there were."""
    claims = _Claims(writer, missing, settings.batch_size)
    if claims.take() is None:  # or every look for work would start the processes that read images
        return 0
    loader: DataLoader = DataLoader(
        images,  # type: ignore[arg-type]
        batch_sampler=claims,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=end_with_parent,
    )
    num_shards = num_unreadable = 0
    examples: list[str] = []
    rows: list[np.ndarray] = []
    unreadable: dict[int, str] = {}
    try:
        with torch.inference_mode():
            for pixels, reasons in loader:
                shard, lease = claims.taken[0]
                features = encode_samples(encode, pixels).float().cpu().numpy()
                position = shard.start + sum(map(len, rows))
                for offset, reason in enumerate(reasons):
                    if reason:
                        features[offset] = 0.0
                        unreadable[position + offset] = reason
                rows.append(features)
                progress.add(len(features))
                if position + len(features) < shard.stop:
                    continue
                writer.write(shard, np.concatenate(rows), unreadable)
                claims.taken.popleft()
                lease.release()
                num_shards += 1
                num_unreadable += len(unreadable)
                for index, reason in unreadable.items():
                    described = _described(images, index, reason)
                    if len(examples) < _SHOWN:
                        logger.warning("Unreadable: %s", described)
                        examples.append(described)
                _require_readable(num_unreadable, writer, settings, examples)
                rows, unreadable = [], {}
    finally:
        for _, lease in claims.taken:
            lease.release()
    return num_shards


def encode_samples(encode: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of images (B, C, H, W), or the means of those of samples (B, num_images, C, H, W).

    Of clips there is always a number per sample: (B, num_clips, C, T, H, W).
    """
    if pixels.ndim < 5:
        return encode(pixels)
    return encode(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).mean(dim=1)


def _collate(samples: list[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, list[str]]:
    pixels, reasons = zip(*samples, strict=True)
    return stack_images(pixels), list(reasons)


def stack_images(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Images of one shape, in one tensor.

    Raises:
        DataError: they differ in shape.
    """
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise DataError(
            problem(
                "FEATURES.TRANSFORMS",
                found=f"transforms that give images of several shapes ({shapes[0]}, {shapes[1]})",
                allowed="transforms that give every image the same shape",
                remedy="Add Resize and CenterCrop.",
            )
        )
    return torch.stack(tuple(images))
