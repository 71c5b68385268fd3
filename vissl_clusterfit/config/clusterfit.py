"""``config.CLUSTERFIT`` as frozen dataclasses: every setting, its meaning, its default and what it may be.

VISSL's own keys keep their names and meaning; new ones stand beside them. ``schema.py`` reads a block into them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vissl_clusterfit.config.assign import AssignSettings
from vissl_clusterfit.config.benchmarks import SuiteSettings
from vissl_clusterfit.config.compute import ComputeSettings
from vissl_clusterfit.config.features import FeatureSettings, TeacherSettings
from vissl_clusterfit.config.head import HeadSettings
from vissl_clusterfit.config.loggers import LoggerSettings
from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.config.slurm import ChainSettings
from vissl_clusterfit.config.targets import TargetSettings
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.storage.artifacts import ArtifactPaths, also_output_dir
from vissl_clusterfit.storage.paths import artifact_path

#: What a signed 64-bit number can hold, as generators of PyTorch take it.
LARGEST_SEED = 2**63 - 1
#: What START may say beside the folder of a codebook.
DRAWN_STARTS = ("random", "k-means++", "hierarchical")
#: A cluster that may be so much larger than the mean is bounded by nothing.
_LARGEST_RATIO = 1_000_000


@dataclass(frozen=True)
class SamplingSettings:
    """``DATA_LIMIT_SAMPLING``: which features are drawn when ``DATA_LIMIT`` is set."""

    seed: int = setting(0, at_least=0, at_most=LARGEST_SEED)


@dataclass(frozen=True)
class ClusterFitConfig:
    """The whole block ``config.CLUSTERFIT``."""

    #: The folder of the codebook and the labels.
    output_dir: str = setting(".")
    #: K, the number of clusters. Written here once: the head's width follows from it.
    num_clusters: int = setting(16000, at_least=1)
    #: Further K, clustered in the same passes over the features; see ``also``. Training takes NUM_CLUSTERS, with
    #: nested TARGETS all of them.
    also_num_clusters: list = setting([])
    #: C: cluster on two levels, the features of each of C coarse clusters into its share of the K; 0 for one level.
    num_coarse_clusters: int = setting(0, at_least=0)
    #: On two levels: iterations over all K at once that follow, across the borders of coarse clusters; 0 for none.
    refinement_iterations: int = setting(4, at_least=0, at_most=1_000_000)
    #: Iterations of Lloyd's algorithm; on two levels, of each.
    num_iter: int = setting(50, at_least=1, at_most=1_000_000)
    #: How many features the centroids are computed from; -1 for all. Every sample gets a label in either case.
    data_limit: int = setting(-1, at_least=-1)
    data_limit_sampling: SamplingSettings = field(default_factory=SamplingSettings)
    #: What searches the nearest centroids: PyTorch, exactly and with the matrix units, or faiss.
    cluster_backend: str = setting("torch", choices=("faiss", "torch"))
    #: The first centroids: "random", "k-means++" (several at a time), "hierarchical" (by way of coarse clusters, which
    #: is quick), or the folder of a codebook to go on from.
    start: str = setting("k-means++", alias="INITIALIZATION")
    #: The first iterations see a sample that grows, later ones an eighth each (a quarter or a half, with few features
    #: for each cluster), in turn; if false, every one sees all.
    growing_sample: bool = setting(True, alias="MINIBATCHES")
    #: Stop when a pass over all features lowers the objective by no more than this share of it; 0 for never.
    tolerance: float = setting(0.0, at_least=0.0, at_most=1.0)
    #: Seconds: no iteration begins that would end later; 0 for no limit. On one level, of one K.
    time_limit: float = setting(0.0, at_least=0.0, at_most=1e9)
    #: "l2" for k-means, "cosine" for spherical k-means (unit features and unit centroids).
    metric: str = setting("l2", choices=("l2", "cosine"))
    #: How much larger than the mean a cluster may be in the labels of the clustered split, from 1; 0 for no bound.
    max_cluster_size: float = setting(0.0)
    #: Draws the first centroids. The same one gives the same codebook to the bit.
    seed: int = setting(0, at_least=0, at_most=LARGEST_SEED)
    #: How many of its nearest clusters are kept for each sample, with distances; all, in an ALSO codebook with fewer.
    top_clusters: int = setting(1, at_least=1)
    #: Train in each epoch on so many samples, drawn anew and balanced over clusters, and over levels where there are
    #: two; 0 for all.
    balanced_samples: int = setting(0, at_least=0)
    #: Folders of labels of the same samples, by other teachers: trained on with this run's own, a head for each.
    joined_labels: list = setting([])
    #: Whether a training leaves its trunk for other libraries, in ``<CHECKPOINT.DIR>/export``: docs/export.md.
    export: bool = setting(True)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    targets: TargetSettings = field(default_factory=TargetSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    assign: AssignSettings = field(default_factory=AssignSettings)
    slurm: ChainSettings = field(default_factory=ChainSettings)
    benchmarks: SuiteSettings = field(default_factory=SuiteSettings)
    loggers: LoggerSettings = field(default_factory=LoggerSettings)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClusterFitConfig:
        """The settings of a run, from its ``config``: the one place where the whole block is looked up.

        Raises:
            ConfigError: as :meth:`from_block`.
        """
        return cls.from_block(config["CLUSTERFIT"])

    @classmethod
    def from_block(cls, block: Mapping[str, Any]) -> ClusterFitConfig:
        """Reads a block ``CLUSTERFIT``.

        Raises:
            ConfigError: naming every unknown key and every bad value at once.
        """
        settings = read_settings(cls, block, "config.CLUSTERFIT")
        problems = settings._contradictions()
        if problems:
            raise ConfigError("\n".join(problems))
        return settings

    def _contradictions(self) -> list[str]:
        found = []
        if self.features.whiten and not self.features.dimensionality_reduction:
            found.append(
                problem(
                    "config.CLUSTERFIT.FEATURES.WHITEN",
                    found="true without DIMENSIONALITY_REDUCTION",
                    allowed="true together with DIMENSIONALITY_REDUCTION > 0",
                    remedy="Whitening scales principal components: say how many to keep.",
                )
            )
        if 0 <= self.data_limit < self.num_clusters:
            found.append(
                problem(
                    "config.CLUSTERFIT.DATA_LIMIT",
                    found=f"{self.data_limit}, less than NUM_CLUSTERS ({self.num_clusters})",
                    allowed="-1 for all features, or at least NUM_CLUSTERS",
                    remedy="Raise DATA_LIMIT or lower NUM_CLUSTERS.",
                )
            )
        if self.top_clusters > self.num_clusters and not self.assign.codebook:
            found.append(
                problem(
                    "config.CLUSTERFIT.TOP_CLUSTERS",
                    found=self.top_clusters,
                    allowed=f"1 to {self.num_clusters}, which is NUM_CLUSTERS",
                )
            )
        wrong = [*self._wrong_further_clusters()]
        if self.max_cluster_size != 0 and not 1 <= self.max_cluster_size <= _LARGEST_RATIO:
            found.append(
                problem(
                    "config.CLUSTERFIT.MAX_CLUSTER_SIZE",
                    found=self.max_cluster_size,
                    allowed=f"0 for no bound, or 1 to {_LARGEST_RATIO}: 1 makes all clusters of the same size",
                )
            )
        if self.time_limit and (self.num_coarse_clusters or self.also_num_clusters):
            found.append(
                problem(
                    "config.CLUSTERFIT.TIME_LIMIT",
                    found=f"{self.time_limit:g} with "
                    + ("NUM_COARSE_CLUSTERS" if self.num_coarse_clusters else "ALSO_NUM_CLUSTERS"),
                    allowed="0 on two levels, and for several K in the same passes",
                )
            )
        if self.num_coarse_clusters and self.also_num_clusters:
            found.append(
                problem(
                    "config.CLUSTERFIT.ALSO_NUM_CLUSTERS",
                    found=f"{self.also_num_clusters} with NUM_COARSE_CLUSTERS",
                    allowed="[] on two levels",
                    remedy="Cluster each K in a separate run, or set NUM_COARSE_CLUSTERS=0.",
                )
            )
        if self.num_coarse_clusters >= self.num_clusters:
            found.append(
                problem(
                    "config.CLUSTERFIT.NUM_COARSE_CLUSTERS",
                    found=f"{self.num_coarse_clusters}, not less than NUM_CLUSTERS ({self.num_clusters})",
                    allowed="0 for one level, or less than NUM_CLUSTERS",
                    remedy="About the square root of NUM_CLUSTERS is quickest.",
                )
            )
        if self.num_coarse_clusters and self.start not in DRAWN_STARTS:
            found.append(
                problem(
                    "config.CLUSTERFIT.START",
                    found=f"{self.start!r} with NUM_COARSE_CLUSTERS",
                    allowed=" | ".join(DRAWN_STARTS),
                    remedy="To go on from a codebook, set NUM_COARSE_CLUSTERS=0.",
                )
            )
        if self.features.test_partition == self.features.data_partition:
            found.append(
                problem(
                    "config.CLUSTERFIT.FEATURES.TEST_PARTITION",
                    found=f"{self.features.test_partition!r}, which is also DATA_PARTITION",
                    allowed='another split, or ""',
                    remedy='Set it to "" if nothing is held out.',
                )
            )
        numbers = [self.num_clusters, *self.also_num_clusters]
        found += wrong or self.targets.problems(numbers, self.top_clusters, self.max_cluster_size)
        found += self.head.problems()
        return [
            *found,
            *self._unreachable(),
            *self.loggers.problems(),
            *self.slurm.problems(),
            *self.benchmarks.problems(),
        ]

    def _wrong_further_clusters(self) -> Iterator[str]:
        numbers, name = self.also_num_clusters, "config.CLUSTERFIT.ALSO_NUM_CLUSTERS"
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
            yield problem(name, found=numbers, allowed="a list of whole numbers, 1 or more")
        elif len({self.num_clusters, *numbers}) <= len(numbers):
            yield problem(name, found=numbers, allowed=f"different ones, without NUM_CLUSTERS ({self.num_clusters})")
        elif 0 <= self.data_limit < max(numbers, default=0):
            yield problem(name, found=numbers, allowed=f"at most {self.data_limit} (DATA_LIMIT)")
        if numbers and self.start not in DRAWN_STARTS:
            yield problem(
                "config.CLUSTERFIT.START",
                found=f"{self.start!r} with ALSO_NUM_CLUSTERS",
                allowed=" | ".join(DRAWN_STARTS),
                remedy="A codebook has one K: cluster from it with this K alone.",
            )

    def _unreachable(self) -> Iterator[str]:
        places = {
            "OUTPUT_DIR": self.output_dir,
            "FEATURES.PATH": self.features.path,
            "ASSIGN.CODEBOOK": self.assign.codebook,
            "TEACHER.WEIGHTS": self.teacher.weights,
            "TARGETS.AGREES_WITH": self.targets.agrees_with,
        }
        for name, text in places.items():
            below = name == "FEATURES.PATH" and text.startswith(self.output_dir)
            if not below:  # which would be said twice
                try:
                    artifact_path(text, f"config.CLUSTERFIT.{name}")
                except ConfigError as error:
                    yield str(error)

    @property
    def paths(self) -> ArtifactPaths:
        """Where the artefacts of this run are."""
        return ArtifactPaths(output_dir=artifact_path(self.output_dir), features_dir=artifact_path(self.features.path))

    @property
    def also(self) -> tuple[ClusterFitConfig, ...]:
        """The settings of each K in ALSO_NUM_CLUSTERS, whose codebook and labels are in ``<OUTPUT_DIR>/also/<K>``."""
        return tuple(
            dataclasses.replace(
                self,
                num_clusters=number,
                also_num_clusters=[],
                output_dir=also_output_dir(self.output_dir, number),
                top_clusters=min(self.top_clusters, number),
                targets=self.targets.of_further(position),
            )
            for position, number in enumerate(self.also_num_clusters)
        )

    @property
    def heads(self) -> tuple[ClusterFitConfig, ...]:
        """The settings of each head of a training, but for those of JOINED_LABELS."""
        return (self, *self.also) if self.targets.is_nested else (self,)

    def labels_of_others(self, folder: str, split: str) -> Path:
        """Where labels of another run are: the named folder has the clustered split, one beside it the held-out one."""
        place = artifact_path(folder)
        return place if split == self.features.data_partition else place.parent / split.lower()

    @property
    def splits(self) -> tuple[str, ...]:
        """The split that is clustered, then the held-out one if there is one."""
        return tuple(split for split in (self.features.data_partition, self.features.test_partition) if split)


def part_for_any_training(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A part of the block that trainings of VISSL's own have too; None where a config has no such block."""
    part: Mapping[str, Any] | None = (config.get("CLUSTERFIT") or {}).get(name)
    return part
