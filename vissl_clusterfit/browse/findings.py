"""What may be wrong with a run, each with the setting to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vissl_clusterfit.browse.clusters import GIANT, Clusters
from vissl_clusterfit.browse.copies import Copies
from vissl_clusterfit.browse.flow import Flow
from vissl_clusterfit.browse.folders import Sources

_SHOWN = 8
# From here on a share is worth a warning.
_COPIES, _UNDECIDED, _SMALL, _FARTHER, _UNSTABLE = 0.005, 0.25, 0.1, 0.1, 0.25
_SMALL_SIZE = 5
#: A cluster whose Jaccard coefficient is below has dissolved (Hennig, 2007).
DISSOLVED = 0.5


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong.

    Attributes:
        title: in a few words.
        text: what was found, with figures.
        settings: what to change: settings of a config and options of a command.
        clusters: that show it, the worst first.
    """

    title: str
    text: str
    settings: Sequence[str]
    clusters: Sequence[int] = field(default=())


def of_sizes(clusters: Clusters) -> Iterator[Finding]:
    """Empty, giant and very small clusters."""
    empty, giants, filled = clusters.empty, clusters.giants, clusters.sizes[clusters.sizes > 0]
    if len(empty):
        yield Finding(
            "Empty clusters",
            f"{len(empty)} of {clusters.num_clusters} clusters have no sample.",
            ("config.CLUSTERFIT.START=k-means++", "a smaller config.CLUSTERFIT.NUM_CLUSTERS (--num-clusters)"),
            _some(empty),
        )
    if len(giants):
        largest = clusters.sizes[giants[0]]
        yield Finding(
            "Giant clusters",
            f"{len(giants)} with at least {GIANT:g} times as many samples as the median one ({np.median(filled):g}). "
            f"The largest has {largest}, {largest / filled.sum():.1%} of all.",
            ("config.CLUSTERFIT.MAX_CLUSTER_SIZE (--max-cluster-size)", "a larger config.CLUSTERFIT.NUM_CLUSTERS"),
            _some(giants),
        )
    small = np.flatnonzero((clusters.sizes > 0) & (clusters.sizes < _SMALL_SIZE))
    if len(small) > _SMALL * clusters.num_clusters:
        yield Finding(
            "Very small clusters",
            f"{len(small)} of {clusters.num_clusters} clusters have fewer than {_SMALL_SIZE} samples.",
            ("a smaller config.CLUSTERFIT.NUM_CLUSTERS (--num-clusters)",),
            _some(small[np.argsort(clusters.sizes[small], kind="stable")]),
        )


def of_undecided(clusters: Clusters, tolerance: float) -> Iterator[Finding]:
    """Many samples between two clusters."""
    if clusters.distances is None or not len(clusters.order):
        return
    share = float(np.nansum(clusters.undecided * clusters.sizes) / clusters.sizes.sum())
    if share > _UNDECIDED:
        worst = np.argsort(-np.nan_to_num(clusters.undecided, nan=-1), kind="stable")
        yield Finding(
            "Samples between clusters",
            f"For {share:.0%} of the samples another centroid is at most {tolerance:.0%} farther than their own.",
            ("a smaller config.CLUSTERFIT.NUM_CLUSTERS", "config.CLUSTERFIT.TOP_CLUSTERS (--top-clusters)"),
            _some(worst),
        )


def of_copies(copies: Copies, num_samples: int) -> Iterator[Finding]:
    """Near-copies among the samples."""
    if copies.num_copies:
        share = copies.num_copies / num_samples
        yield Finding(
            "Near-copies" if share >= _COPIES else "A few near-copies",
            f"{copies.num_copies} samples ({share:.2%}) have nearly the features of another one in their cluster, in "
            f"{len(copies.groups)} groups; the largest has {len(copies.groups[0])}.",
            ("a list without them in config.DATA.TRAIN.DATA_PATHS (IMAGES of embed)",),
        )


def of_sources(sources: Sources) -> Iterator[Finding]:
    """Clusters that mix folders where the others do not, or are of one where the others mix them."""
    if len(sources.mixed):
        first = int(sources.mixed[0])
        yield Finding(
            "Contaminated clusters",
            f"Clusters mostly follow the folders: the usual share of the first folder is {sources.usual_share:.0%}. "
            f"{len(sources.mixed)} mix them; in the worst, cluster {first}, it is "
            f"{sources.flow.main_shares[first]:.0%}.",
            ("the folders of the samples that are in the wrong one", "a larger config.CLUSTERFIT.NUM_CLUSTERS"),
            _some(sources.mixed),
        )
    if len(sources.of_one):
        yield Finding(
            "Clusters of one folder",
            f"Clusters mostly mix the folders: the usual share of the first folder is {sources.usual_share:.0%}. "
            f"{len(sources.of_one)} have one folder nearly alone, as where a mark or a camera is what is alike.",
            ("config.CLUSTERFIT.FEATURES.TRANSFORMS, to crop what gives the folder away", "another teacher or layer"),
            _some(sources.of_one),
        )


def of_unreadable(num_unreadable: int, num_samples: int) -> Iterator[Finding]:
    """Samples without features."""
    if num_unreadable:
        yield Finding(
            "Unreadable samples",
            f"{num_unreadable} of {num_samples} samples could not be read, and have no label.",
            ("mend or leave out the files below", "config.CLUSTERFIT.FEATURES.MAX_UNREADABLE (--max-unreadable)"),
        )


def of_clustering(objective: Sequence[float], *, converged: bool) -> Iterator[Finding]:
    """Iterations that ended too early."""
    if not converged and len(objective) > 1:
        last = 1 - objective[-1] / objective[-2] if objective[-2] else 0.0
        yield Finding(
            "Not converged",
            f"The clustering ended after {len(objective)} iterations; the last changed the objective by {last:.2%}.",
            ("a larger config.CLUSTERFIT.NUM_ITER (--num-iter)",),
        )


def of_stability(found: Flow) -> Iterator[Finding]:
    """Clusters that another run does not have."""
    stability = found.stability
    filled = ~np.isnan(stability)
    dissolved = np.flatnonzero(filled & (np.nan_to_num(stability, nan=1) < DISSOLVED))
    if filled.any() and len(dissolved) > _UNSTABLE * filled.sum():
        yield Finding(
            "Unstable clusters",
            f"{len(dissolved)} of {filled.sum()} clusters have no counterpart in the other run with a Jaccard "
            f"coefficient of {DISSOLVED:g} or more.",
            ("a smaller config.CLUSTERFIT.NUM_CLUSTERS", "a larger config.CLUSTERFIT.NUM_ITER"),
            _some(dissolved[np.argsort(stability[dissolved], kind="stable")]),
        )


def of_drift(name: str, farther: float) -> Iterator[Finding]:
    """Other data that are farther from the centroids than the clustered ones."""
    if farther > _FARTHER:
        yield Finding(
            "Drift",
            f"{farther:.0%} of the samples of {name} are farther from their centroid than 99 % of the clustered ones.",
            ("config.CLUSTERFIT.ASSIGN.MAX_DISTANCE=p99", "cluster data that hold such samples, too"),
        )


def of_too_far(num_too_far: int, num_samples: int) -> Iterator[Finding]:
    """Many samples beyond the limit that was set, which have no label."""
    if num_too_far > _FARTHER * num_samples:
        yield Finding(
            "Drift",
            f"{num_too_far} of {num_samples} samples are beyond the limit of the distance, and have no label.",
            ("config.CLUSTERFIT.ASSIGN.MAX_DISTANCE (--max-distance)", "cluster data that hold such samples, too"),
        )


def _some(clusters: np.ndarray) -> list[int]:
    return [int(cluster) for cluster in clusters[:_SHOWN]]
