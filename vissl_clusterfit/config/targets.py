"""``config.CLUSTERFIT.TARGETS``: what a training on clusters is trained on, and which samples count how much."""

from __future__ import annotations

import dataclasses
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
    #: NUM_CLUSTERS and of each of ALSO_NUM_CLUSTERS, a head for each; or these heads with clusters by their distances.
    kind: str = setting("hard", choices=("hard", "top_l", "soft", "nested", "soft_nested"))
    #: L, of "top_l" and the soft kinds. Labels must keep as many, or all clusters of a coarser codebook: TOP_CLUSTERS
    #: follows, where it is not given.
    num_nearest: int = setting(10, at_least=2)
    #: Of the soft kinds; 0 for that which gives PERPLEXITY, each codebook its own.
    temperature: float = setting(0.0, at_least=0.0)
    #: Of the soft kinds with TEMPERATURE 0: of how many clusters a target is, on average; between 1 and NUM_NEAREST.
    perplexity: float = setting(5.0, above=1.0)
    #: The same for each of ALSO_NUM_CLUSTERS, whose codebooks may have fewer clusters; [] for PERPLEXITY.
    also_perplexity: list = setting([])
    #: Samples whose relative margin, of 0 to 1, is smaller are not trained on.
    min_margin: float = setting(0.0, at_least=0.0, at_most=1.0)
    #: Samples weigh as this power of their relative margin; 0: all the same.
    margin_power: float = setting(0.0, at_least=0.0, at_most=100.0)
    #: A folder of labels of the same samples from another codebook: samples on which the two disagree are left out.
    agrees_with: str = setting("")

    @property
    def of_nearest(self) -> bool:
        """Whether the nearest clusters are needed, and not the label alone."""
        return self.kind == "top_l" or self.is_soft

    @property
    def is_soft(self) -> bool:
        """Whether the distances to the nearest clusters decide their shares."""
        return self.kind in ("soft", "soft_nested")

    @property
    def is_nested(self) -> bool:
        """Whether each of ALSO_NUM_CLUSTERS has a head."""
        return self.kind in ("nested", "soft_nested")

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
        if self.is_soft:
            name = "temperature" if self.temperature else "perplexity"
            found[name] = getattr(self, name)
        if self.kind == "soft_nested" and self.also_perplexity and not self.temperature:
            found["also_perplexity"] = self.also_perplexity
        for name in ("min_margin", "margin_power"):
            if getattr(self, name):
                found[name] = getattr(self, name)
        return found

    def of_further(self, number: int) -> TargetSettings:
        """Those of one of ALSO_NUM_CLUSTERS, by its position there."""
        own = self.also_perplexity[number : number + 1]
        return dataclasses.replace(self, perplexity=float(own[0])) if own else self

    def problems(self, numbers: Sequence[int], top_clusters: int, max_cluster_size: float) -> Iterator[str]:
        """What contradicts the rest of ``config.CLUSTERFIT``.

        Args:
            numbers: NUM_CLUSTERS, and ALSO_NUM_CLUSTERS.
            top_clusters: TOP_CLUSTERS; 1 where it is not given.
            max_cluster_size: MAX_CLUSTER_SIZE.
        """
        if self.is_nested and len(numbers) == 1:
            yield problem(
                f"{_BLOCK}.KIND",
                found=f"{self.kind} with one number of clusters",
                allowed=f"{self.kind} with further ones in config.CLUSTERFIT.ALSO_NUM_CLUSTERS",
                remedy=f"For example config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[{max(1, numbers[0] // 10)}].",
            )
        if self.kind == "soft_nested" and min(numbers) < 2:
            name, allowed = "config.CLUSTERFIT.ALSO_NUM_CLUSTERS", f"2 or more where targets are {self.kind}"
            yield problem(name, found=list(numbers[1:]), allowed=allowed)
        elif self.of_nearest:
            yield from self._wrong_nearest(numbers, top_clusters, max_cluster_size)

    def _wrong_nearest(self, numbers: Sequence[int], top_clusters: int, max_cluster_size: float) -> Iterator[str]:
        most = numbers[0] if top_clusters == 1 else min(numbers[0], top_clusters)
        limit = f"which is {'NUM' if most == numbers[0] else 'TOP'}_CLUSTERS"
        if self.num_nearest > most:
            yield problem(f"{_BLOCK}.NUM_NEAREST", found=self.num_nearest, allowed=f"2 to {most}, {limit}")
        if self.is_soft and not self.temperature:
            yield from self._wrong_perplexities(numbers)
        if max_cluster_size:
            yield problem(
                f"{_BLOCK}.KIND",
                found=f"{self.kind} with MAX_CLUSTER_SIZE",
                allowed="hard | nested where the size of clusters is bounded",
                remedy="The nearest clusters of a sample know no bound: set MAX_CLUSTER_SIZE=0, or KIND=hard.",
            )

    def _wrong_perplexities(self, numbers: Sequence[int]) -> Iterator[str]:
        if not self.perplexity < self.num_nearest:
            allowed = f"above 1 and below {self.num_nearest}, which is NUM_NEAREST"
            yield problem(f"{_BLOCK}.PERPLEXITY", found=self.perplexity, allowed=allowed)
        if self.kind != "soft_nested":
            return
        below = [min(self.num_nearest, number) for number in numbers[1:]]
        given = self.also_perplexity or [self.perplexity] * len(below)
        fits = len(given) == len(below) and all(
            isinstance(value, (int, float)) and 1 < value < most for value, most in zip(given, below, strict=True)
        )
        if not fits:
            yield problem(
                f"{_BLOCK}.ALSO_PERPLEXITY",
                found=self.also_perplexity or f"nothing, with PERPLEXITY={self.perplexity:g}",
                allowed=f"for each of ALSO_NUM_CLUSTERS a number above 1 and below {', '.join(map(str, below))}",
                remedy="A target has at most NUM_NEAREST clusters, of a coarser codebook all of them.",
            )
