"""All that is computed of a run before it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vissl_clusterfit.browse import findings
from vissl_clusterfit.browse.centroids import neighbours, plane_of
from vissl_clusterfit.browse.clusters import Clusters, chosen_clusters, group_by_cluster
from vissl_clusterfit.browse.copies import Copies, near_copies
from vissl_clusterfit.browse.findings import Finding
from vissl_clusterfit.browse.flow import Flow, flow
from vissl_clusterfit.browse.folders import Sources, source_folders, sources_of
from vissl_clusterfit.browse.run import Run
from vissl_clusterfit.errors import ArtifactError, ConfigError, problem
from vissl_clusterfit.labels.comparison import TOLERANCE, require_same_samples
from vissl_clusterfit.labels.drift import known_distances
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.quality import Agreement, agreement

_NEIGHBOURS = 5
_OF_EACH_KIND = 6


@dataclass(frozen=True)
class Drift:
    """Labels of other data, against the clustered ones.

    Attributes:
        folder: of the labels.
        distances: float32 (n,), squared.
        farther: the share of samples that are farther than 99 % of the clustered ones; None where these are not known.
        num_too_far: beyond the limit, if one was set.
    """

    folder: Path
    distances: np.ndarray
    farther: float | None
    num_too_far: int


@dataclass(frozen=True, eq=False)
class Analysis:
    """The figures of a run; each is computed when it is first asked for.

    Args:
        run: what there is.
        other: labels of the same samples by another run.
        true: int64 (N,), true classes, -1 for none.
        named: clusters that are to be shown in any case.
        map_method: see :func:`~vissl_clusterfit.browse.centroids.plane_of`.
    """

    run: Run
    other: PseudoLabels | None = None
    true: np.ndarray | None = None
    named: Sequence[int] = ()
    map_method: str = ""

    def require_known(self) -> None:
        """Checks what the user has named.

        Raises:
            ConfigError: a cluster that is not there.
            ArtifactError: the other labels are of other samples, or labels are no clusters.
        """
        num_clusters = 0 if self.labels is None and self.run.codebook is None else self.num_clusters
        if wrong := [cluster for cluster in self.named if not 0 <= cluster < num_clusters]:
            allowed = f"0 to {num_clusters - 1}" if num_clusters else "none, as there are no clusters yet"
            raise ConfigError(problem("--clusters", found=wrong[0], allowed=allowed))
        if self.other is not None:
            if self.run.labels is None:
                raise ConfigError(problem("OTHER", found="no labels in RUN", allowed="two runs with labels"))
            require_same_samples(self.run.labels, self.other)

    @property
    def num_clusters(self) -> int:
        """K; 0 where there is neither a codebook nor labels."""
        if self.run.labels is not None:
            return self.run.labels.num_clusters[0]
        return self.run.codebook.num_clusters if self.run.codebook else 0

    @cached_property
    def labels(self) -> np.ndarray | None:
        """int64 (N,), the first column of several.

        Raises:
            ArtifactError: one is no cluster.
        """
        if self.run.labels is None:
            return None
        labels = _column(self.run.labels.labels)
        if len(labels) and not -1 <= labels.min() <= labels.max() < self.num_clusters:
            found, allowed = f"labels {labels.min()} to {labels.max()}", f"-1 to {self.num_clusters - 1}"
            raise ArtifactError(problem(str(self.run.labels.folder), found=found, allowed=allowed))
        return labels

    @cached_property
    def clusters(self) -> Clusters | None:
        """The samples by cluster; None without labels."""
        labels = self.run.labels
        if labels is None or self.labels is None:
            return None
        if not labels.has_distances:
            return group_by_cluster(self.labels, self.num_clusters)
        margins = _column(labels.margins)
        return group_by_cluster(self.labels, self.num_clusters, _column(labels.distances), margins, TOLERANCE)

    @property
    def sizes(self) -> np.ndarray | None:
        """int64 (K,): of the labels, or without them of the clustering."""
        if self.clusters is not None:
            return self.clusters.sizes
        return None if self.run.codebook is None else self.run.codebook.counts

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Of each cluster the nearest others, and the squared distances to them."""
        return None if self.run.codebook is None else neighbours(self.run.codebook.centroids, _NEIGHBOURS)

    @cached_property
    def plane(self) -> tuple[np.ndarray, str] | None:
        """The centroids in a plane, and how they came there."""
        return None if self.run.codebook is None else plane_of(self.run.codebook.centroids, self.map_method)

    @property
    def copies(self) -> Copies | None:
        """Near-copies; None without features or labels, or where features are damaged."""
        return self._copies[0]

    @cached_property
    def _copies(self) -> tuple[Copies | None, str]:
        """They, and what is wrong with the features."""
        if self.run.features is None or self.clusters is None:
            return None, ""
        try:
            return near_copies(self.run.features, self.clusters), ""
        except ArtifactError as error:
            return None, str(error)

    @cached_property
    def names(self) -> list[str] | None:
        """Of the samples."""
        return self.run.names

    @cached_property
    def sources(self) -> Sources | None:
        """The shares of folders in clusters; None where names or folders say nothing."""
        if self.names is None or self.labels is None:
            return None
        return sources_of(self.labels, *source_folders(self.names), self.num_clusters)

    @cached_property
    def stability(self) -> Flow | None:
        """How samples flow into the clusters of the other run."""
        if self.other is None or self.labels is None:
            return None
        return flow(self.labels, _column(self.other.labels), self.num_clusters, self.other.num_clusters[0])

    @cached_property
    def classes(self) -> Flow | None:
        """How clusters are made up of true classes."""
        if self.true is None or self.labels is None:
            return None
        return flow(self.labels, self.true, self.num_clusters, int(self.true.max(initial=-1)) + 1)

    @cached_property
    def agreements(self) -> dict[str, Agreement]:
        """How far the labels agree with those of the other run, and with the true classes."""
        others = {"other": None if self.other is None else _column(self.other.labels), "true": self.true}
        if self.labels is None:
            return {}
        return {name: agreement(self.labels, given) for name, given in others.items() if given is not None}

    @cached_property
    def drifts(self) -> list[Drift]:
        """Labels of other data."""
        return [drift for labels in self.run.others if (drift := self._drift(labels)) is not None]

    @cached_property
    def _usual_limit(self) -> float | None:
        """The distance that 99 % of the clustered samples have at most; None where it is not known."""
        labels, codebook = self.run.labels, self.run.codebook
        if labels is None or codebook is None or not labels.has_distances:
            return None
        of_clustered = labels.manifest.get("features_hash") == codebook.manifest.get("features_hash")
        distances = known_distances(labels)
        return float(np.percentile(distances, 99)) if of_clustered and len(distances) else None

    def _drift(self, labels: PseudoLabels) -> Drift | None:
        if not labels.has_distances:
            return None
        distances, limit = known_distances(labels), self._usual_limit
        farther = None if limit is None or not len(distances) else float((distances > limit).mean())
        return Drift(labels.folder, distances, farther, int(labels.manifest.get("num_too_far", 0)))

    @cached_property
    def chosen(self) -> dict[str, list[int]]:
        """Clusters to show, by what they are."""
        named = {"named": list(self.named)} if self.named else {}
        return named if self.clusters is None else {**named, **chosen_clusters(self.clusters, _OF_EACH_KIND)}

    @cached_property
    def findings(self) -> list[Finding]:
        """What may be wrong."""
        return list(self._findings())

    def _findings(self) -> Iterator[Finding]:
        run = self.run
        if run.num_samples or run.num_unreadable:
            yield from findings.of_unreadable(run.num_unreadable, run.num_samples)
        if self.clusters is not None:
            yield from findings.of_sizes(self.clusters)
            yield from findings.of_undecided(self.clusters, TOLERANCE)
        if self._copies[1]:
            yield findings.Finding("Damaged features", self._copies[1], ("vissl-clusterfit check, and what it says",))
        if self.copies is not None:
            yield from findings.of_copies(self.copies, run.num_samples)
        if self.sources is not None:
            yield from findings.of_sources(self.sources)
        if run.codebook is not None and (trace := run.codebook.manifest.get("objective")):
            yield from findings.of_clustering(trace, converged=bool(run.codebook.manifest.get("converged")))
        if self.stability is not None:
            yield from findings.of_stability(self.stability)
        if run.labels is not None:
            yield from findings.of_too_far(run.labels.manifest.get("num_too_far", 0), run.num_samples)
        for drift in self.drifts:
            yield from findings.of_drift(drift.folder.name, drift.farther or 0.0)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values if values.ndim == 1 else values[:, 0])
