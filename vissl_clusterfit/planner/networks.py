"""What extraction and training take, measured on a few of the run's own images and a few passes of its own networks.

Memory is counted, not measured: what a backward pass keeps, and what is alive at once in a forward pass.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

_MOST_IMAGES = 32
_SECONDS = 2.0


class Images(Protocol):
    """A data set whose samples are images (C, H, W), or several views of one, and whether they could be read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]: ...


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes:
        read: seconds to read it, in one process.
        compute: seconds in the network, alone on this machine; None where it has no such device.
        fixed_bytes: memory that does not grow with the batch: weights, and in training gradients and the optimizer's.
        image_bytes: memory for each image of a batch.
    """

    read: float
    compute: float | None
    fixed_bytes: int
    image_bytes: int


@dataclass(frozen=True)
class StagePlan:
    """Extraction or training.

    Attributes:
        num_images: that go through the network, each as often as there are epochs.
        batch_size: of one process.
        cost: of an image.
        processes: of the whole run.
        machines: on which they are.
        workers: processes that read images, for each process of the run.
        shares_processors: whether the network runs on the processors that read, too.
        disk: bytes of what it writes.
    """

    num_images: int
    batch_size: int
    cost: Cost
    processes: int = 1
    machines: int = 1
    workers: int = 0
    shares_processors: bool = True
    disk: int = 0

    @property
    def seconds(self) -> float | None:
        """On machines like this one; None where the network could not be measured."""
        if self.cost.compute is None:
            return None
        each = -(-self.processes // self.machines)
        readers = min(os.cpu_count() or 1, each * max(1, self.workers))
        read = self.cost.read / readers
        if self.shares_processors:
            an_image = self.cost.compute + read
        elif self.workers:
            an_image = max(self.cost.compute / each, read)
        else:
            an_image = (self.cost.compute + self.cost.read) / each
        return self.num_images * an_image / self.machines

    @property
    def memory(self) -> int:
        """Bytes of the network and a batch, in each process."""
        return self.cost.fixed_bytes + self.batch_size * self.cost.image_bytes

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        names = ("num_images", "batch_size", "processes", "machines", "disk", "memory", "seconds")
        return {name: getattr(self, name) for name in names} | {"read": self.cost.read, "compute": self.cost.compute}


def forward_cost(images: Images, encode: Callable[[torch.Tensor], torch.Tensor], *, timed: bool = True) -> Cost:
    """The cost of an image in extraction.

    Args:
        images: of the split.
        encode: the network, from a batch to features.
        timed: whether it is on the run's own device, so that its time counts.
    """
    num_samples, batch, read = _batch(images)
    with torch.inference_mode():
        with _modules_watched() as seen:
            encode(batch)
        compute = _seconds(lambda: encode(batch)) / num_samples if timed else None
    return Cost(read, compute, seen.weights, -(-seen.alive // num_samples))


def training_cost(
    images: Images, network: nn.Module, optimizer: torch.optim.Optimizer, state_per_weight: int, *, timed: bool = True
) -> Cost:
    """The cost of an image in a step of training.

    Args:
        images: as training sees them.
        network: that is trained.
        optimizer: of its weights.
        state_per_weight: numbers that the optimizer keeps for each weight.
        timed: as in :func:`forward_cost`.
    """
    num_samples, batch, read = _batch(images)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    device = next(iter(weights)).device
    batch = batch.to(device)
    own = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def step() -> None:
        optimizer.zero_grad()
        torch.stack([output.float().square().mean() for output in _tensors(network(batch))]).sum().backward()
        optimizer.step()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    fixed = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    fixed += sum(weight.numel() * weight.element_size() * (1 + state_per_weight) for weight in weights)
    compute = _seconds(step) / num_samples if timed else None
    return Cost(read, compute, fixed, -(-sum(kept.values()) // num_samples))


def partial_head_bytes(num_clusters: int, dim: int, rate: float, processes: int) -> tuple[int, int]:
    """What a partial head takes in each process: with any batch, and for each image of one.

    Its share of the rows; of those that are drawn a copy; for the images of all processes the logits of these, without
    and with the correction, their exponentials, and a gradient. All are float32.

    Args:
        num_clusters: K.
        dim: D.
        rate: the share that is drawn.
        processes: of the run.
    """
    rows = -(-num_clusters // processes)
    drawn = math.ceil(rate * rows)
    return 4 * dim * (rows + drawn), 4 * 4 * drawn * processes


def _batch(images: Images) -> tuple[int, torch.Tensor, float]:
    """Some samples from all over a split: how many, their images, and the seconds that one took."""
    places = np.unique(np.linspace(0, len(images) - 1, _MOST_IMAGES).astype(np.int64)).tolist()
    read, begun = [], time.perf_counter()
    for place in places:
        read.append(images[place][0])
        if time.perf_counter() - begun > _SECONDS:
            break
    taken = (time.perf_counter() - begun) / len(read)
    samples = torch.stack([image for image in read if image.shape == read[0].shape])
    return len(samples), samples.flatten(0, 1) if samples.ndim > 4 else samples, taken  # several views of each


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (list, tuple, Mapping)):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(each)


def _seconds(work: Callable[[], object]) -> float:
    """What ``work`` takes once it was done: the least of a few times, as another program may disturb one."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < _SECONDS:
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return min(taken)


class _Seen:
    """Bytes of a network's weights, and the most that one of its layers has of what goes in and what comes out."""

    weights, alive = 0, 0


@contextmanager
def _modules_watched() -> Iterator[_Seen]:
    seen, known = _Seen(), set()

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in known:
            return
        known.add(module)
        seen.weights += sum(
            tensor.numel() * tensor.element_size()
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        )
        alive = sum(tensor.numel() * tensor.element_size() for tensor in (*_tensors(inputs), *_tensors(output)))
        seen.alive = max(seen.alive, alive)

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
