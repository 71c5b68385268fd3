"""Extraction as a pipeline: images are read, go through the network, come back and are written, all at once."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vissl_clusterfit import distributed
from vissl_clusterfit.compute.memory import all_freed_memory_kept
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.features.batches import Encoder, Finish, ImageSource, encode_samples, stack_images
from vissl_clusterfit.features.card import Card
from vissl_clusterfit.features.readers import FEWEST_BATCHES, measured_readers
from vissl_clusterfit.features.spent import Clock, Spent
from vissl_clusterfit.features.store import Shard
from vissl_clusterfit.features.worker_init import end_with_parent
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.storage.leases import Lease

logger = logging.getLogger(__name__)

#: Unreadable samples that are named.
SHOWN = 5


class Pipeline:
    """Extracts shards of a store, one after the other.

    Processes read and decode the next batches, where there are such processes; a card computes while batches travel to
    and from it; a thread writes a shard while the next one is computed.

    Args:
        images: the split.
        make_encoder: gives the network. It is called once, when the processes that read have begun.
        writer: of the store.
        settings: batch size.
        num_workers: processes that read images; None for as many as measure to be enough.
        cores: of this process of the run.
        device: on which the network computes, "cpu" or "cuda".

    Attributes:
        spent: on what this process has waited.
    """

    def __init__(
        self,
        images: ImageSource,
        make_encoder: Callable[[], Encoder],
        writer: FeatureStoreWriter,
        settings: EncodingSettings,
        num_workers: int | None,
        device: str,
        cores: int,
    ) -> None:
        left = getattr(images, "unfinished", lambda: None)()
        self._images: ImageSource = left[0] if left else images
        self._finish: Finish | None = left[1] if left else None
        self._make_encoder, self._writer = make_encoder, writer
        self._settings, self._num_workers, self._device, self._cores = settings, num_workers, device, cores
        self._card = Card(self._finish) if device == "cuda" else None
        self._ahead = Card.AHEAD if device == "cuda" else 0
        self.spent = Spent()

    def extract(
        self,
        missing: list[Shard],
        progress: Callable[[int], None],
        require_readable: Callable[[int, Sequence[str]], None],
    ) -> int:
        """Extracts shards until none is free.

        Args:
            missing: shards that are not done.
            progress: gets the number of samples of each batch.
            require_readable: is asked after each shard whether to go on: it gets the number of unreadable samples, and
                some of them.

        Returns:
            How many there were.
        """
        claims = _Claims(self._writer, missing, self._settings.batch_size)
        if claims.take() is None:  # or every look for work would start the processes that read images
            return 0
        loader: DataLoader = DataLoader(
            _Timed(self._images, self._finish),
            batch_sampler=claims,
            num_workers=self._readers(missing),
            collate_fn=_collate,  # type: ignore[arg-type]
            worker_init_fn=end_with_parent,
            pin_memory=self._card is not None,
        )
        disk = _Disk(self._writer, self.spent)
        num_shards = num_unreadable = 0
        examples: list[str] = []
        rows: list[np.ndarray] = []
        unreadable: dict[int, str] = {}
        try:
            batches = iter(loader)  # which starts the processes; they read while the network is loaded
            encode = self._make_encoder()
            with torch.inference_mode(), self._memory(), self.spent.running():
                for features, reasons in self._features(encode, batches):
                    shard, lease = claims.taken[0]
                    position = shard.start + sum(map(len, rows))
                    for offset, reason in enumerate(reasons):
                        if reason:
                            features[offset] = 0.0
                            unreadable[position + offset] = reason
                    rows.append(features)
                    progress(len(features))
                    if position + len(features) < shard.stop:
                        continue
                    disk.write(shard, lease, rows, unreadable)
                    claims.taken.popleft()
                    num_shards += 1
                    num_unreadable += len(unreadable)
                    for index, reason in unreadable.items():
                        if len(examples) < SHOWN:
                            examples.append(described(self._images, index, reason))
                            logger.warning("Unreadable: %s", examples[-1])
                    require_readable(num_unreadable, examples)
                    rows, unreadable = [], {}
                disk.wait()
        finally:
            disk.close()
            for _, lease in claims.taken:
                lease.release()
        return num_shards

    def _readers(self, missing: list[Shard]) -> int:
        if self._num_workers is None:
            num_batches = sum(shard.stop - shard.start for shard in missing) // self._settings.batch_size
            few = num_batches < FEWEST_BATCHES[self._device]
            self._num_workers = 1 if few else self._measured_readers()
        return self._num_workers

    def _measured_readers(self) -> int:
        encode, finish = self._make_encoder(), self._finish or (lambda images: images)

        def whole(batch: torch.Tensor) -> torch.Tensor:
            return encode(finish(batch))

        with torch.inference_mode(), self._memory():
            return measured_readers(self._images, whole, self._settings.batch_size, self._device, self._cores)

    def _memory(self) -> AbstractContextManager[None]:
        return all_freed_memory_kept() if self._card is None else contextlib.nullcontext()

    def _features(self, encode: Encoder, batches: Iterator[Any]) -> Iterator[tuple[np.ndarray, list[str]]]:
        """The features (B, D) float32 of each batch, and why which of its samples could not be read."""
        under_way: deque[tuple[Callable[[], np.ndarray], list[str]]] = deque()
        for pixels, reasons, seconds in self.spent.over(batches):
            self.spent.add_reading(seconds, len(reasons))
            with self.spent.on("network"):
                under_way.append((self._begun(encode, pixels), reasons))
            if len(under_way) > self._ahead:
                yield self._arrived(*under_way.popleft())
        while under_way:
            yield self._arrived(*under_way.popleft())

    def _begun(self, encode: Encoder, pixels: torch.Tensor) -> Callable[[], np.ndarray]:
        """A function that gives the features of a batch; on a processor they are computed now."""
        if self._card is not None:
            return self._card.features(encode, pixels)
        images = pixels if self._finish is None else self._finish(pixels)
        features = encode_samples(encode, images).float().numpy()
        return lambda: features

    def _arrived(self, features: Callable[[], np.ndarray], reasons: list[str]) -> tuple[np.ndarray, list[str]]:
        with self.spent.on("network"):
            return features(), reasons


def described(images: ImageSource, index: int, reason: str) -> str:
    """An unreadable sample, for messages."""
    return f"{images.name_of(index)} ({reason})"


class _Disk:
    """Writes shards in a thread, one at a time; a lease is given back when its shard is written."""

    def __init__(self, writer: FeatureStoreWriter, spent: Spent) -> None:
        self._writer, self._spent = writer, spent
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writing features")
        self._pending: Future[None] | None = None

    def write(self, shard: Shard, lease: Lease, rows: list[np.ndarray], unreadable: dict[int, str]) -> None:
        """Begins to write a shard, when the one before is written; raises what that has raised."""
        self.wait()
        self._pending = self._thread.submit(self._write, shard, lease, rows, unreadable)

    def wait(self) -> None:
        """Waits until all is written; raises what writing has raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._spent.on("disk"):
                pending.result()

    def close(self) -> None:
        """Ends the thread, when what it writes is written."""
        self._thread.shutdown()

    def _write(self, shard: Shard, lease: Lease, rows: list[np.ndarray], unreadable: dict[int, str]) -> None:
        try:
            self._writer.write(shard, np.concatenate(rows), unreadable)
        finally:
            lease.release()


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


class _Timed(Dataset):
    """A data set that gives whole batches, and what reading them took. Processes get it sent."""

    def __init__(self, images: ImageSource, finish: Finish | None = None) -> None:
        self._images, self._finish = images, finish

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: list[int]) -> tuple[list[tuple[torch.Tensor, str]], Clock]:
        begun = Clock.now()
        samples = [self._images[index] for index in indices]
        if self._finish and len({image.dtype for image, _ in samples}) > 1:
            samples = [(self._finish(image), reason) for image, reason in samples]
        return samples, Clock.now() - begun


def _collate(batch: tuple[list[tuple[torch.Tensor, str]], Clock]) -> tuple[torch.Tensor, list[str], Clock]:
    samples, seconds = batch
    pixels, reasons = zip(*samples, strict=True)
    return stack_images(pixels), list(reasons), seconds
