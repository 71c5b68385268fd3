"""``FEATURES.BATCH_SIZE: auto``: how many samples go through a network at a time, found by trying on a GPU."""

from __future__ import annotations

import logging
import time

import torch

from vissl_clusterfit.features.batches import Encoder, ImageSource, encode_samples, stack_images

logger = logging.getLogger(__name__)

#: On a processor, where larger batches are no faster and their maps leave its caches.
FIXED = 64
_LARGEST = 1024
#: A batch twice as large must be so many times as fast.
_LEAST_GAIN = 1.05
_NUM_IMAGES = 4


def batch_size_on(device: str, encode: Encoder, images: ImageSource) -> int:
    """The batch size for a device: 64 on a processor; on a GPU the smallest power of two near the highest rate.

    Sizes from 64 to 1,024 are tried on the first few samples, repeated, as long as each is 5 % faster than half of it;
    where 64 does not fit into the memory of the GPU, smaller ones are.

    Args:
        device: "cpu" or "cuda".
        encode: the network.
        images: as they are extracted.
    """
    if device != "cuda":
        return FIXED
    some = stack_images([images[index][0] for index in range(min(len(images), _NUM_IMAGES))]).to(device)
    best, rate, size = 1, 0.0, FIXED
    while True:
        try:
            found = size / _seconds(encode, some, size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if rate or size == 1:
                break
            size //= 2
            continue
        if found < rate * _LEAST_GAIN:
            break
        best, rate = size, found
        if size < FIXED or size == _LARGEST:
            break
        size *= 2
    torch.cuda.empty_cache()  # or what the largest took would stay taken
    logger.info("Batches of %d: %.0f samples per second in the network.", best, rate)
    return best


def _seconds(encode: Encoder, some: torch.Tensor, size: int) -> float:
    """Of a batch, after one like it."""
    batch = some[torch.arange(size, device=some.device) % len(some)]
    with torch.inference_mode():
        encode_samples(encode, batch)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        encode_samples(encode, batch)
        torch.cuda.synchronize()
    return time.perf_counter() - begun
