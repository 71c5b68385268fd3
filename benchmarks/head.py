"""What many clusters cost a training step: a partial head of a million beside a full one of 16,000, under a ResNet-50.

    make bench BENCH=head                   three minutes on two cores, 12 GB of memory
    python benchmarks/head.py --clusters 100000 --memory-clusters 20000 --image 64 --pairs 3

Two processes on one machine, gloo, float32. Steps of the two heads alternate, after one of each that does not count:
forward, loss, backward, SGD with momentum on the network, and on the head. ``step_ratio`` is the median of the pairs'
ratios. ``memory_ratio`` compares what the partial head adds to the memory of a process in three steps with what a full
head of as many clusters adds; it is measured with fewer clusters, as a full head of a million needs over 25 GB in each
process. The last line is one JSON object; times are in seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn

from vissl_clusterfit.config.head import HeadSettings
from vissl_clusterfit.plugin.training.cluster_rows import ClusterRows
from vissl_clusterfit.plugin.training.partial_softmax import PartialSoftmax

PROCESSES, DIM, LEARNING_RATE, MOMENTUM = 2, 2048, 0.01, 0.9


class Step:
    """A network with a head of some clusters; each call is a step of training."""

    def __init__(self, num_clusters: int, rate: float | None, images: torch.Tensor, network: nn.Module | None) -> None:
        self.images, self.num_clusters, self._number = images, num_clusters, 0
        layers: list[nn.Module] = [network or nn.Flatten()]
        self.partial = None
        if rate is None:
            layers.append(nn.Linear(DIM, num_clusters))
        else:
            self.partial = PartialSoftmax(ClusterRows(num_clusters, DIM, seed=0), HeadSettings("partial", rate))
        model = nn.Sequential(*layers)
        trained = any(weight.requires_grad for weight in model.parameters())
        self.model = nn.parallel.DistributedDataParallel(model) if trained else model
        weights = list(model.parameters())
        self.optimizer = torch.optim.SGD(weights, LEARNING_RATE, momentum=MOMENTUM) if weights else None

    def __call__(self) -> float:
        """Trains on the images once; the seconds that it took."""
        draw = torch.Generator().manual_seed(self._number * PROCESSES + dist.get_rank())
        labels = torch.randint(self.num_clusters, (len(self.images),), generator=draw)
        dist.barrier()
        begun = time.perf_counter()
        output = self.model(self.images)
        if self.partial:
            ones = torch.ones(len(labels), 1)
            loss = self.partial.loss(output, labels[:, None], ones, ones[:, 0], self._number)
        else:
            loss = F.cross_entropy(output, labels)
        if self.optimizer:
            self.optimizer.zero_grad()
        loss.backward()
        if self.optimizer:
            self.optimizer.step()
        if self.partial:
            self.partial.update(LEARNING_RATE / (1 - MOMENTUM), 1e-4)
        self._number += 1
        dist.barrier()
        return time.perf_counter() - begun


def in_two_processes(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs work in two processes of a group, and gives what the first one returned."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        results = context.SimpleQueue()
        common = (Path(folder) / "meeting", results, work, arguments)
        started = [context.Process(target=_joined, args=(rank, *common)) for rank in range(PROCESSES)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            raise SystemExit("A process failed; its message is above.")
        return results.get()


def _joined(rank: int, meeting: Path, results: Any, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // PROCESSES))
    torch.manual_seed(0)
    dist.init_process_group("gloo", f"file://{meeting}", world_size=PROCESSES, rank=rank)
    found = work(*arguments)
    if rank == 0:
        results.put(found)
    dist.destroy_process_group()


def times(options: argparse.Namespace) -> list[tuple[float, float]]:
    """Pairs of the seconds of a step: with few clusters and a full head, with many and a partial one."""
    images = torch.randn(options.batch, 3, options.image, options.image)
    steps = []
    for clusters, rate in ((options.few, None), (options.clusters, options.rate)):
        network = torchvision.models.resnet50(weights=None)
        network.fc = nn.Identity()
        steps.append(Step(clusters, rate, images, network))
    for step in steps:
        step()
    return [(steps[0](), steps[1]()) for _ in range(options.pairs)]


def memory(num_clusters: int, rate: float | None, batch: int) -> int:
    """What a head adds to the largest memory of a process in three steps, in kilobytes."""
    nn.Linear(DIM, 8)(torch.randn(batch, DIM)).sum().backward()  # what the first product takes once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(num_clusters, rate, torch.randn(batch, DIM, requires_grad=True), None)
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def agreement() -> float:
    """How far the loss with all rows is from the full softmax, relative to it, for a few clusters."""
    head = PartialSoftmax(ClusterRows(500, DIM, seed=0), HeadSettings("partial", 1.0))
    features = torch.randn(64, DIM)
    dist.broadcast(features, 0)
    parts = [torch.empty_like(head.rows.weights) for _ in range(PROCESSES)]
    dist.all_gather(parts, head.rows.weights)
    labels = torch.arange(64) * 7 % 500
    half = slice(dist.get_rank() * 32, dist.get_rank() * 32 + 32)
    ones = torch.ones(32, 1)
    loss = head.loss(features[half], labels[half, None], ones, ones[:, 0], 0)
    expected = F.cross_entropy(features @ torch.cat(parts).T, labels)
    return abs(float(loss.detach() / expected) - 1)


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=1_000_000, help="of the partial head")
    parser.add_argument("--few", type=int, default=16_000, help="clusters of the full head beside it")
    parser.add_argument("--memory-clusters", type=int, default=100_000, help="where memory is measured")
    parser.add_argument("--rate", type=float, default=0.1, help="of the partial head")
    parser.add_argument("--batch", type=int, default=16, help="images of each process")
    parser.add_argument("--image", type=int, default=224, help="pixels")
    parser.add_argument("--pairs", type=int, default=5, help="how often each step is measured")
    options = parser.parse_args()

    pairs = in_two_processes(times, options)
    taken = [in_two_processes(memory, options.memory_clusters, rate, options.batch) for rate in (None, options.rate)]
    figures = {
        "benchmark": "head",
        "clusters": options.clusters,
        "rate": options.rate,
        "processes": PROCESSES,
        "full_step_s": round(statistics.median(full for full, _ in pairs), 3),
        "partial_step_s": round(statistics.median(partial for _, partial in pairs), 3),
        "step_ratio": round(statistics.median(partial / full for full, partial in pairs), 3),
        "memory_clusters": options.memory_clusters,
        "full_memory_mb": taken[0] // 1024,
        "partial_memory_mb": taken[1] // 1024,
        "memory_ratio": round(taken[1] / taken[0], 3),
        "loss_differs_by": in_two_processes(agreement),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
