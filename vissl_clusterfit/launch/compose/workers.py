"""``DATA.NUM_DATALOADER_WORKERS: auto``: how many processes read images, from the cores that there are for each.

That is for trainings, whose random transforms depend on the number. An extraction has none, and measures
(``features/readers.py``).
"""

from __future__ import annotations

import os
from typing import Any

from vissl_clusterfit.config.compute import AUTO, READERS_BY_RATE

_KEY = "NUM_DATALOADER_WORKERS"
#: A core decodes some 300 images of ImageNet in a second; the network of a ResNet-50 takes 17 (docs/performance.md).
_CORES_PER_READER = 8
_MOST = 16


def takes_auto(config: dict[str, Any]) -> bool:
    """Whether the number is to be found; a 1 is in its place then, for what checks the config."""
    data = config.get("DATA")
    if not isinstance(data, dict) or data.get(_KEY) != AUTO:
        return False
    data[_KEY] = 1
    return True


def find_workers(config: dict[str, Any]) -> None:
    """Fills the number in, for each process of the run, and says that it was found.

    With a GPU all of its cores but one read, up to 16; without, one of eight, as the network takes the others.
    """
    slurm = config["SLURM"]
    if slurm["USE_SLURM"]:  # the machine that submits may have others
        cores = slurm["NUM_CPU_PER_PROC"]
    else:
        cores = len(os.sched_getaffinity(0)) // config["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
    number = cores // _CORES_PER_READER if config["MACHINE"]["DEVICE"] == "cpu" else cores - 1
    config["DATA"] |= {_KEY: max(1, min(_MOST, number)), READERS_BY_RATE: True}
