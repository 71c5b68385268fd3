"""What processes do with a head whose rows they share: draw, train a step, save, and read what others saved."""

import datetime
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from vissl_clusterfit import distributed
from vissl_clusterfit.config.head import HeadSettings
from vissl_clusterfit.plugin.training.cluster_rows import ClusterRows
from vissl_clusterfit.plugin.training.partial_softmax import PartialSoftmax

NUM_CLUSTERS, DIM, BATCH = 23, 6, 8
RATE, WEIGHT_DECAY = 0.5, 0.01


def batch() -> tuple[torch.Tensor, ...]:
    """Features, clusters, shares and weights of all processes together."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, DIM, generator=draw)
    clusters = torch.stack([torch.randperm(NUM_CLUSTERS, generator=draw)[:3] for _ in range(BATCH)])
    shares = torch.softmax(torch.randn(BATCH, 3, generator=draw), dim=1)
    return features, clusters, shares, torch.tensor([1.0, 1, 0, 2, 1, 1, 0.5, 1])


def step(head: PartialSoftmax) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the batch, of which each process has its part, and the gradient of its features."""
    size = BATCH // distributed.world_size()
    part = slice(distributed.rank() * size, (distributed.rank() + 1) * size)
    features, *others = (values[part] for values in batch())
    features = features.clone().requires_grad_()
    loss = head.loss(features, *others, step=7)
    loss.backward()
    return loss.detach(), features.grad


def work(rank: int, processes: int, meeting: str, folder: Path, saved: Path | None, settings: HeadSettings) -> None:
    """A step from the first weights or from saved ones; leaves what came out, and the rows after it."""
    torch.set_num_threads(1)
    if processes > 1:
        limit = datetime.timedelta(seconds=60)
        dist.init_process_group("gloo", f"file://{meeting}", limit, world_size=processes, rank=rank)
    rows = ClusterRows(NUM_CLUSTERS, DIM, seed=3)
    if saved:
        rows.load(saved)
    head = PartialSoftmax(rows, settings)
    loss, gradient = step(head)
    # As DistributedDataParallel: the mean over the processes is that of the loss.
    np.save(folder / f"gradient{rank}.npy", gradient.numpy() / processes)
    np.save(folder / f"loss{rank}.npy", loss.numpy())
    head.update(RATE, WEIGHT_DECAY)
    rows.save(folder / "rows")
    if processes > 1:
        dist.destroy_process_group()
