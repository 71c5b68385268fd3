"""How many processes read images: as many as keep ahead of the network, from what both were measured to take."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch

from vissl_clusterfit.compute.choose import seconds_of
from vissl_clusterfit.features.batches import Encoder, ImageSource, encode_samples, stack_images
from vissl_clusterfit.features.spent import Clock

logger = logging.getLogger(__name__)

#: More of them would only take memory: each holds batches.
MOST = 16
#: Batches below which one reads. The measurement takes two, and a process as long as one to start on a processor; on a
#: card two are soon done, and one that reads would have it wait.
FEWEST_BATCHES = {"cpu": 16, "cuda": 2}
# So much more than the network takes is read, as images differ in size.
_SPARE = 1.25
_NUM_SAMPLES = 16


def num_readers(reading: Clock, network_s: float, cores: int, *, on_card: bool) -> int:
    """How many processes keep a network supplied, and no more.

    On a card the network takes no core: it is supplied at its own rate, or at that of all cores but one. On a processor
    both share the cores: an image takes ``busy + network_s`` of them, so ``cores`` over that is the rate to supply. A
    reader that waits for files takes no core meanwhile, so there may be more such than cores.

    Args:
        reading: a sample, by one process.
        network_s: seconds of a sample in the network: of a card, or of all cores together.
        cores: of this process of the run.
        on_card: whether the network is on a card.

    Examples:
        >>> from vissl_clusterfit.features.readers import num_readers
        >>> from vissl_clusterfit.features.spent import Clock
        >>> decoding = Clock(0.003, 0.0)
        >>> num_readers(decoding, 1 / 2500, 32, on_card=True), num_readers(decoding, 0.04, 32, on_card=False)
        (10, 3)
    """
    free = max(1, cores - 1) if on_card else cores
    busy = max(reading.busy, 1e-9)
    rate = min(1 / max(network_s, 1e-9), free / busy) if on_card else cores / (network_s + busy)
    each = busy + reading.stalled
    of_cores = free * each / busy  # that are busy all of the time
    return max(1, min(MOST, math.ceil(rate * each * _SPARE), math.ceil(of_cores - 1e-6)))


def measured_readers(images: ImageSource, encode: Encoder, batch_size: int, device: str, cores: int) -> int:
    """How many processes are to read the images of an extraction on this machine, said in the log with both rates.

    Args:
        images: as processes read them; some are read here.
        encode: the network, from what such images are in a batch.
        batch_size: of the extraction, of which two batches go through the network.
        device: of the network, "cpu" or "cuda".
        cores: of this process of the run.
    """
    places = [len(images) * number // _NUM_SAMPLES for number in range(_NUM_SAMPLES)]
    read = [images[place][0] for place in places[:1]]  # what is done at the first sample only is not counted
    begun = Clock.now()
    read += [images[place][0] for place in places[1:]]
    spent = Clock.now() - begun
    reading = Clock(*(each / (_NUM_SAMPLES - 1) for each in spent))
    alike = [sample for sample in read if (sample.dtype, sample.shape) == (read[0].dtype, read[0].shape)]
    # On a card the network waits for no copy of a batch, nor for a processor that finishes its pixels.
    batch = stack_images([alike[number % len(alike)] for number in range(batch_size)]).to(device)
    network_s = _second_pass(lambda: encode_samples(encode, batch), torch.device(device)) / batch_size
    number = num_readers(reading, network_s, cores, on_card=device == "cuda")
    logger.info(
        "Processes that read images: %d. One reads and decodes %.0f a second; the network takes %.0f a second on %s.",
        number,
        1 / max(sum(reading), 1e-9),
        (1 if device == "cuda" else cores) / max(network_s, 1e-9),
        "a GPU" if device == "cuda" else f"the cores of the run, {cores}",
    )
    return number


def _second_pass(work: Callable[[], object], device: torch.device) -> float:
    work()
    begun = seconds_of(device)
    work()
    return seconds_of(device) - begun
