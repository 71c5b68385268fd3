"""A CUDA device in the pipeline: batches travel to it and features back while it computes others."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch

from vissl_clusterfit.features.batches import Encoder, Finish, encode_samples


class Card:
    """The current device; copies to it have a stream of their own. Nothing waits for it but arrivals.

    Args:
        finish: makes images of pixels; None where batches are images.
    """

    #: Batches that are under way when the first of them is waited for.
    AHEAD: ClassVar[int] = 2

    def __init__(self, finish: Finish | None = None) -> None:
        self._finish = finish or (lambda images: images)
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._copies = torch.cuda.Stream(self._device)

    def features(self, encode: Encoder, pixels: torch.Tensor) -> Callable[[], np.ndarray]:
        """Begins to compute the features of a batch in pinned memory.

        Returns:
            A function that waits until they are in memory, and gives them (B, D) float32.
        """
        network = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            images = pixels.to(self._device, non_blocking=True)
        network.wait_stream(self._copies)
        images.record_stream(network)  # or its memory would be given to the next batch while the network reads it
        features = encode_samples(encode, self._finish(images)).float()
        there = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        there.copy_(features, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(network)

        def wait() -> np.ndarray:
            arrived.synchronize()
            return there.numpy()

        return wait
