"""``config.CLUSTERFIT.HEAD``: how the student's last layer is computed, for as many clusters as do not fit at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import problem

_BLOCK = "config.CLUSTERFIT.HEAD"


@dataclass(frozen=True)
class HeadSettings:
    """``HEAD``; the formulas are in ``plugin/training/partial_softmax.py``."""

    #: A linear layer on every process, or its rows spread over the processes, a share of them in each step.
    kind: str = setting("full", choices=("full", "partial"))
    #: The share of the clusters that are drawn in each step, beside those that the samples have. 1: all.
    rate: float = setting(0.1, above=0.0, at_most=1.0)
    #: Count each drawn negative for those that were not drawn, so that the sum over clusters is right on average.
    correction: bool = setting(True)
    #: The scalar product of unit vectors, times SCALE.
    cosine: bool = setting(False)
    scale: float = setting(64.0, above=0.0)
    #: What is taken off the cosine of a sample and its own clusters, in training.
    margin: float = setting(0.0, at_least=0.0, at_most=1.0)

    def problems(self) -> Iterator[str]:
        """What contradicts itself."""
        if self.margin and not self.cosine:
            yield problem(f"{_BLOCK}.MARGIN", found=f"{self.margin} without COSINE", allowed="0, or COSINE=true")
