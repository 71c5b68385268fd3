"""``config.CLUSTERFIT.TARGETS``: what a training on clusters is trained on, and which samples count how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import problem

_BLOCK = "config.CLUSTERFIT.TARGETS"


@dataclass(frozen=True)
class TargetSettings:
    """``TARGETS``; every formula is in ``labels/targets.py``."""

    #: The label of each sample; its NUM_NEAREST nearest clusters, all alike, or each by its distance; or the labels of
    #: NUM_CLUSTERS and of each of ALSO_NUM_CLUSTERS, a head for each.
    kind: str = setting("hard", choices=("hard", "top_l", "soft", "nested"))
    #: L, of "top_l" and "soft". Labels must keep as many: TOP_CLUSTERS follows, where it is not given.
    num_nearest: int = setting(10, at_least=2)
    #: Of "soft"; 0 for that which gives PERPLEXITY.
    temperature: float = setting(0.0, at_least=0.0)
    #: Of "soft" with TEMPERATURE 0: of how many clusters a target is, on average; between 1 and NUM_NEAREST.
    perplexity: float = setting(5.0, above=1.0)
    #: Samples whose relative margin, of 0 to 1, is smaller are not trained on.
    min_margin: float = setting(0.0, at_least=0.0, at_most=1.0)
    #: Samples weigh as this power of their relative margin; 0: all the same.
    margin_power: float = setting(0.0, at_least=0.0, at_most=100.0)
    #: A folder of labels of the same samples from another codebook: samples on which the two disagree are left out.
    agrees_with: str = setting("")

    @property
    def of_nearest(self) -> bool:
        """Whether the nearest clusters are needed, and not the label alone."""
        return self.kind in ("top_l", "soft")

    @property
    def weighs_samples(self) -> bool:
        """Whether samples count differently, or some not at all."""
        return self.min_margin > 0 or self.margin_power > 0 or bool(self.agrees_with)

    @property
    def by_sample(self) -> bool:
        """Whether the loss must know which sample it has, and not only its label."""
        return self.of_nearest or self.weighs_samples

    def inputs(self) -> dict[str, Any]:
        """What decides the targets, as JSON; nothing for hard labels, as trainings have it that are older than this."""
        found: dict[str, Any] = {} if self.kind == "hard" else {"kind": self.kind}
        if self.of_nearest:
            found["num_nearest"] = self.num_nearest
        if self.kind == "soft":
            name = "temperature" if self.temperature else "perplexity"
            found[name] = getattr(self, name)
        for name in ("min_margin", "margin_power"):
            if getattr(self, name):
                found[name] = getattr(self, name)
        return found

    def problems(self, numbers: Sequence[int], top_clusters: int, max_cluster_size: float) -> Iterator[str]:
        """What contradicts the rest of ``config.CLUSTERFIT``.

        Args:
            numbers: NUM_CLUSTERS, and ALSO_NUM_CLUSTERS.
            top_clusters: TOP_CLUSTERS; 1 where it is not given.
            max_cluster_size: MAX_CLUSTER_SIZE.
        """
        if self.kind == "nested" and len(numbers) == 1:
            yield problem(
                f"{_BLOCK}.KIND",
                found="nested with one number of clusters",
                allowed="nested with further ones in config.CLUSTERFIT.ALSO_NUM_CLUSTERS",
                remedy=f"For example config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[{max(1, numbers[0] // 10)}].",
            )
        if not self.of_nearest:
            return
        most = numbers[0] if top_clusters == 1 else min(numbers[0], top_clusters)
        limit = f"which is {'NUM' if most == numbers[0] else 'TOP'}_CLUSTERS"
        if self.num_nearest > most:
            yield problem(f"{_BLOCK}.NUM_NEAREST", found=self.num_nearest, allowed=f"2 to {most}, {limit}")
        if self.kind == "soft" and not self.temperature and not self.perplexity < self.num_nearest:
            allowed = f"above 1 and below {self.num_nearest}, which is NUM_NEAREST"
            yield problem(f"{_BLOCK}.PERPLEXITY", found=self.perplexity, allowed=allowed)
        if max_cluster_size:
            yield problem(
                f"{_BLOCK}.KIND",
                found=f"{self.kind} with MAX_CLUSTER_SIZE",
                allowed="hard | nested where the size of clusters is bounded",
                remedy="The nearest clusters of a sample know no bound: set MAX_CLUSTER_SIZE=0, or KIND=hard.",
            )
