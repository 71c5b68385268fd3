"""PyTorch's ``SyncBatchNorm``, which trains on GPUs only, on the CPU: VISSL's XCiT is built of it in any config."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn.modules.batchnorm import _BatchNorm


def local_on_cpu(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The ``forward`` of ``SyncBatchNorm``, which on the CPU takes the statistics of this process's batch.

    That is what VISSL does with all other networks there: it makes no batch norm a synchronous one on the CPU.
    """

    @functools.wraps(forward)
    def forward_anywhere(self: torch.nn.SyncBatchNorm, batch: torch.Tensor) -> torch.Tensor:
        return _BatchNorm.forward(self, batch) if batch.device.type == "cpu" else forward(self, batch)

    return forward_anywhere
