"""How networks compute, in extraction, training and benchmarks: the block ``config.CLUSTERFIT.COMPUTE``."""

from __future__ import annotations

from dataclasses import dataclass

from vissl_clusterfit.config.schema import setting

AUTO = "auto"
#: Of ``config.DATA``: that ``NUM_DATALOADER_WORKERS`` was left to the machine, so extractions measure.
READERS_BY_RATE = "READERS_BY_RATE"


@dataclass(frozen=True)
class ComputeSettings:
    """``COMPUTE``: precision, memory format and compilation of networks."""

    #: In what products are computed. "auto" measures the network on this device and takes what is fastest, if its
    #: features are within 5 % of those of float32; "float32" gives the same bits as releases before this setting.
    precision: str = setting(AUTO, choices=(AUTO, "float32", "bfloat16", "float16"))
    #: Images and weights with their channels last in memory; "auto" as above, and false for float32 that is asked for.
    channels_last: object = setting(AUTO, choices=(AUTO, True, False))
    #: Compile networks with torch.compile, which takes a compiler and a minute or more at the start.
    compile: bool = setting(False)
