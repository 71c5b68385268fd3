"""What a clustering is asked to do: all that its memory, its disk and its time follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.kmeans import HIERARCHICAL, KMEANS_PLUSPLUS
from vissl_clusterfit.clustering.minibatches import (
    MinibatchPlan,
    equal_parts,
    has_settled,
    start_share,
    steps,
    width,
)
from vissl_clusterfit.clustering.protocol import ALL
from vissl_clusterfit.clustering.reproducible_sums import SumGrid, ValueRange
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.search.backends import FAISS, TORCH

# Features that are not scaled to unit norm: their largest number over a typical one is taken to be this.
_TYPICAL_RANGE = ValueRange(largest=64.0, typical=1.0)


@dataclass(frozen=True)
class Workload:
    """A clustering and the labelling that follows it.

    Attributes:
        num_samples: N, all of which are labelled.
        input_dim: dimensions of the features on disk.
        num_clusters: K.
        num_iter: iterations of k-means.
        num_done: iterations that a run that was stopped has done.
        num_components: principal components that are kept; 0 for all dimensions.
        data_limit: the features that are clustered; -1 for all.
        normalize: whether features are scaled to unit norm first.
        cosine: whether vectors and centroids are scaled to unit norm.
        start: "random", "k-means++", "hierarchical", or where the first centroids are given.
        growing: whether the first iterations see a sample.
        tolerance: what may end it before all iterations.
        time_limit: seconds that may; 0 for none.
        refines: whether it goes on from the centroids of two levels, over all features, with lists where there are any.
        dtype: of the features on disk.
        backend: "torch" or "faiss".
        device: "cpu" or "cuda".
        processes: of the whole run.
        machines: on which they are, as many on each.
        threads: of each process.
        top_clusters: how many of its nearest clusters the labels keep for each sample.
        also: further K, whose codebooks and labels are made in the same passes; their disk is counted.
    """

    num_samples: int
    input_dim: int
    num_clusters: int
    num_iter: int = 50
    num_done: int = 0
    num_components: int = 0
    data_limit: int = -1
    normalize: bool = True
    cosine: bool = False
    start: str = KMEANS_PLUSPLUS
    growing: bool = True
    tolerance: float = 0.0
    time_limit: float = 0.0
    refines: bool = False
    dtype: str = "float32"
    backend: str = TORCH
    device: str = "cpu"
    processes: int = 1
    machines: int = 1
    threads: int = 1
    top_clusters: int = 1
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = [
            problem(name, found=value, allowed="1 or more")
            for name, value in (
                ("The number of samples", self.num_samples),
                ("The dimension of the features", self.input_dim),
                ("config.CLUSTERFIT.NUM_CLUSTERS", self.num_clusters),
                ("config.CLUSTERFIT.NUM_ITER", self.num_iter),
                ("The number of processes", self.processes),
                ("The number of machines", self.machines),
                ("The number of threads", self.threads),
            )
            if value < 1
        ]
        if not problems:
            problems = self._contradictions()
        if problems:
            raise ConfigError("\n".join(problems))

    def _contradictions(self) -> list[str]:
        found = []
        if self.num_clusters > self.num_vectors:
            allowed = f"1 to {self.num_vectors}, the number of features that are clustered"
            found.append(problem("config.CLUSTERFIT.NUM_CLUSTERS", found=self.num_clusters, allowed=allowed))
        if not 0 <= self.num_components <= min(self.input_dim, self.num_vectors):
            found.append(
                problem(
                    "config.CLUSTERFIT.FEATURES.DIMENSIONALITY_REDUCTION",
                    found=self.num_components,
                    allowed=f"0 to {min(self.input_dim, self.num_vectors)}",
                )
            )
        if self.machines > self.processes:
            allowed = f"1 to {self.processes}, at least one process on each"
            found.append(problem("The number of machines", found=self.machines, allowed=allowed))
        if self.backend not in (TORCH, FAISS):
            found.append(problem("config.CLUSTERFIT.CLUSTER_BACKEND", found=self.backend, allowed=f"{TORCH} | {FAISS}"))
        return found

    @classmethod
    def of_settings(
        cls, settings: ClusterFitConfig, num_samples: int, input_dim: int, dtype: str, device: str, **run: Any
    ) -> Workload:
        """The clustering that ``config.CLUSTERFIT`` describes, of given features, on the processes of ``run``."""
        return cls(
            num_samples,
            input_dim,
            settings.num_clusters,
            settings.num_iter,
            num_components=settings.features.dimensionality_reduction,
            data_limit=settings.data_limit,
            normalize=settings.features.normalize,
            cosine=settings.metric == "cosine",
            start=settings.start,
            growing=settings.growing_sample,
            tolerance=settings.tolerance,
            time_limit=settings.time_limit,
            dtype=dtype,
            backend=settings.cluster_backend,
            device=device,
            top_clusters=settings.top_clusters,
            also=tuple(settings.also_num_clusters),
            **run,
        )

    @property
    def num_vectors(self) -> int:
        """The features that are clustered."""
        return min(self.num_samples, self.data_limit) if self.data_limit >= 0 else self.num_samples

    @property
    def own_vectors(self) -> int:
        """Those that one process reads."""
        return -(-self.num_vectors // self.processes)

    @property
    def processes_per_machine(self) -> int:
        """On the machine with the most."""
        return -(-self.processes // self.machines)

    @property
    def dim(self) -> int:
        """D, the dimensions of the vectors that are clustered."""
        return self.num_components or self.input_dim

    @property
    def feature_bytes(self) -> int:
        """Bytes of a number on disk."""
        return np.dtype(self.dtype).itemsize

    @property
    def has_unit_rows(self) -> bool:
        """Whether all vectors have unit norm, so that their norms need not be computed."""
        return self.cosine or (self.normalize and not self.num_components)

    @property
    def extent(self) -> ValueRange:
        """How large the numbers are: a guess where they are not scaled to unit norm."""
        return ValueRange(1.0 + 1e-6, self.dim**-0.5) if self.has_unit_rows else _TYPICAL_RANGE

    @property
    def num_bins(self) -> int:
        """How many sums are kept of each number, so that the sum of all is exact."""
        return SumGrid(self.extent, self.num_vectors).num_bins

    @property
    def steps(self) -> list[MinibatchPlan]:
        """What each iteration sees."""
        hierarchical = self.start == HIERARCHICAL
        return steps(
            self.num_iter, self.num_vectors, self.num_clusters, growing=self.growing, hierarchical=hierarchical
        )

    @property
    def fewest_iterations(self) -> int:
        """After so many TOLERANCE may end it at the earliest; all of them without one."""
        plan = self.steps
        two_passes = (number for number in range(1, len(plan)) if has_settled([0.0] * number, plan, self.tolerance))
        return next(two_passes, len(plan))

    @property
    def shares(self) -> list[float]:
        """The share of the vectors that each iteration that is still to come sees."""
        return [width(step) for step in self.steps[self.num_done :]]

    @property
    def widest_pass(self) -> float:
        """The largest share of the vectors that an iteration sees one after the other."""
        return max((width((share,)) for step in self.steps[self.num_done :] for share in step), default=1.0)

    @property
    def start_share(self) -> float:
        """Of the vectors that first centroids are drawn from."""
        return start_share(self.steps, self.num_vectors, self.num_clusters)[1]

    @property
    def num_sums(self) -> int:
        """Of how many parts the sums are kept in float32."""
        last = self.steps[-1][-1]
        parts = equal_parts(round(1 / width((last,))))
        return len({share for step in self.steps for share in step if share in parts}) if last != ALL else 0
