"""How the processes begin that read images for VISSL's training."""

from __future__ import annotations

from vissl.utils.misc import set_dataloader_seeds

from vissl_clusterfit.features.worker_init import end_with_parent


def begin_to_read(number: int) -> None:
    """What VISSL does in such a process; besides, it ends with the training. A ``worker_init_fn``."""
    end_with_parent(number)
    set_dataloader_seeds(number)
