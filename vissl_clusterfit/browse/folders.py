"""From which folders the samples of a cluster come: a cluster that mixes them, or has one alone, unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.browse.flow import Flow, flow

#: More folders than this are taken together by the first part of their paths.
_MOST_FOLDERS = 20_000
# Where clusters follow the folders, one that does not is contaminated; where they do not, one that does is suspect.
_FOLLOW, _NOT_FOLLOW = 0.8, 0.6
_OUTLIER = 0.25
_ONE_SOURCE, _LIFT = 0.9, 2.0
_LEAST_SAMPLES = 5


@dataclass(frozen=True, eq=False)
class Sources:
    """The folders of all samples and their shares in the clusters.

    Attributes:
        names: of the folders, L of them.
        flow: from clusters to folders.
        usual_share: the median over samples of the share of the most frequent folder in their cluster.
        mixed: int64: the clusters that mix folders where clusters do not, the most mixed first.
        of_one: int64: the clusters of one folder where clusters mix them, the largest first.
    """

    names: list[str]
    flow: Flow
    usual_share: float
    mixed: np.ndarray
    of_one: np.ndarray


def source_folders(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The folder of each sample by its name: int64 (N,), and the folders, in the order of their names.

    Of very many folders, the first part of their paths is taken.
    """
    codes, found = _coded([name.rpartition("/")[0] for name in names])
    if len(found) > min(_MOST_FOLDERS, max(1, len(names) // 2)):
        codes, found = _coded([name.lstrip("/").partition("/")[0] if "/" in name else "" for name in names])
    return codes, found


def _coded(folders: list[str]) -> tuple[np.ndarray, list[str]]:
    found = sorted(set(folders))
    number = {folder: place for place, folder in enumerate(found)}
    return np.fromiter((number[folder] for folder in folders), dtype=np.int64, count=len(folders)), found


def sources_of(labels: np.ndarray, folders: np.ndarray, names: list[str], num_clusters: int) -> Sources | None:
    """The shares of folders in clusters; None where all samples are of one folder, or each has its own.

    Args:
        labels: int64 (N,), -1 for none.
        folders: int64 (N,), as :func:`source_folders` gives them.
        names: of the folders.
        num_clusters: K.
    """
    if not 1 < len(names) <= len(folders) // 2:
        return None
    found = flow(labels, folders, num_clusters, len(names))
    shares, sizes = found.main_shares, found.cluster_sizes
    if not sizes.any():
        return None
    usual = float(np.median(np.repeat(np.nan_to_num(shares), sizes)))
    enough = sizes >= _LEAST_SAMPLES
    none = np.empty(0, dtype=np.int64)
    mixed = of_one = none
    if usual >= _FOLLOW:
        mixed = np.flatnonzero(enough & (shares <= usual - _OUTLIER))
        mixed = mixed[np.argsort(shares[mixed], kind="stable")]
    elif usual < _NOT_FOLLOW:
        base = found.group_sizes[found.main_groups] / found.group_sizes.sum()
        of_one = np.flatnonzero(enough & (shares >= _ONE_SOURCE) & (shares >= _LIFT * base))
        of_one = of_one[np.argsort(-sizes[of_one], kind="stable")]
    return Sources(names, found, usual, mixed, of_one)
