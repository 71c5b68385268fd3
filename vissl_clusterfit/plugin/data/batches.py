"""Batches of a training on their way from the processes that read: 8 bits a pixel, and small ones in one message.

PyTorch passes every tensor of a batch as a file of shared memory, over a connection of its own that the process of the
training has to wait for. Where the network takes some 20 ms for a batch of small images, that was a tenth of the time.
A small batch goes through the pipe that announces it anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from vissl_clusterfit.images.pixels import Finish, unfinished
from vissl_clusterfit.plugin.data.cropped_pixels import with_cropped_pixels
from vissl_clusterfit.plugin.data.transform_steps import Steps

#: Bytes of a batch that goes through a pipe.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class _Message:
    """A batch with arrays in the place of tensors, which are passed by value."""

    arrays: Any


class InOneMessage:
    """A collator whose batches are passed by value where they are small."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> Any:
        """A batch, or the message with it."""
        batch = self._collate(samples)
        tensors: list[torch.Tensor] = []
        changed(batch, torch.Tensor, tensors.append)
        is_small = sum(tensor.nbytes for tensor in tensors) <= _MOST_BYTES
        return _Message(changed(batch, torch.Tensor, torch.Tensor.numpy)) if is_small else batch


class ArrivedBatches:
    """A loader whose batches are tensors again, and finished; of anything else it has, the loader that it stands for.

    Args:
        loader: VISSL's, or one of its wrappers that copies to a GPU.
        finish: of the pixels, if they are to be finished.
    """

    def __init__(self, loader: Any, finish: Finish | None) -> None:
        self._loader, self._finish = loader, finish

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return _Arriving(iter(self._loader), self._finish)


class _Arriving:
    """No generator: where a batch raises, the next one can still be asked for."""

    def __init__(self, batches: Iterator[Any], finish: Finish | None) -> None:
        self._batches, self._finish = batches, finish

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> _Arriving:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        if isinstance(batch, _Message):
            batch = changed(batch.arrays, np.ndarray, torch.from_numpy)
        # VISSL copies batches to a card in a stream of their own, and may give their memory to the next but one while
        # the network still computes with them.
        changed(batch, torch.Tensor, _kept_for_the_network)
        if self._finish is not None:
            batch["data"] = [self._finish(images) for images in batch["data"]]
        return batch


def _kept_for_the_network(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))


def leave_pixels(dataset: Any, dataset_config: Mapping[str, Any]) -> Finish | None:
    """Has a data set give pixels, and returns what is left to do to them; None where it gives what it always did.

    Collators other than PyTorch's may look into images.
    """
    if dataset_config["COLLATE_FUNCTION"] != "default_collate" or not isinstance(dataset.transform, Steps):
        return None
    if (found := unfinished(dataset.transform.transforms)) is None:
        return None
    dataset.transform = Steps(with_cropped_pixels(found[0]))
    return found[1]


def in_one_message(loader: DataLoader) -> None:
    """Has small batches of a loader passed by value, if other processes read them."""
    if loader.num_workers:
        loader.collate_fn = InOneMessage(loader.collate_fn)


def changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """What is of a kind, itself or in lists and dictionaries, changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {name: changed(each, kind, change) for name, each in value.items()}
    return [changed(each, kind, change) for each in value] if isinstance(value, list | tuple) else value
