"""The table of all clusters, as the data that a page's script sorts and searches."""

from __future__ import annotations

from typing import Any

import numpy as np

from vissl_clusterfit.browse.analysis import Analysis
from vissl_clusterfit.browse.text import shown

_LONGEST_NAME = 80


def cluster_table(analysis: Analysis) -> dict[str, Any]:
    """Columns of figures, one value for each cluster, and texts that are told by number.

    Returns:
        ``columns``: of each its ``key``, ``title`` and what it means, its ``values`` (a list of K, null where there is
        none), and ``texts``, where a value is the number of a text; ``neighbours``: lists of clusters.
    """
    sizes, clusters = analysis.sizes, analysis.clusters
    if sizes is None:
        return {"columns": [], "neighbours": [], "num_clusters": 0}
    columns = [_column("size", "samples", "how many samples have this label", sizes)]
    if clusters is not None and clusters.distances is not None:
        columns += [
            _column("distance", "distance", "mean squared distance to the centroid", clusters.mean_distances),
            _column(
                "undecided", "undecided", "share of samples nearly as near to another centroid", clusters.undecided
            ),
        ]
    if analysis.neighbours is not None and analysis.neighbours[0].shape[1]:
        nearest = analysis.neighbours[1][:, 0]
        columns.append(_column("nearest", "next centroid", "squared distance to the nearest other centroid", nearest))
    if (sources := analysis.sources) is not None:
        columns += [
            _share("share", "one folder", "samples of the most frequent folder", sources.flow.main_shares),
            _column("folder", "folder", "the most frequent one", *_used(sources.flow.main_groups, sources.names)),
        ]
    if analysis.copies is not None and clusters is not None:
        of_copies = (analysis.copies.originals >= 0)[clusters.order]
        counts = np.bincount(clusters.labels_in_order[of_copies], minlength=len(sizes))
        columns.append(_column("copies", "copies", "samples that are near-copies of another one", counts))
    if analysis.stability is not None:
        text = "Jaccard coefficient with the cluster of the other run that is most like it"
        columns.append(_column("stability", "stability", text, analysis.stability.stability))
    if analysis.classes is not None:
        columns.append(_share("purity", "purity", "samples of the most frequent class", analysis.classes.main_shares))
        columns.append(_column("class", "class", "the most frequent true class", analysis.classes.main_groups))
    if clusters is not None and analysis.names is not None:
        filled = np.flatnonzero(sizes > 0)
        typical = np.full(len(sizes), -1, dtype=np.int64)
        typical[filled] = np.arange(len(filled))
        names = [shown(analysis.names[clusters.order[clusters.starts[each]]])[-_LONGEST_NAME:] for each in filled]
        columns.append(_column("example", "nearest sample", "its name", typical, names))
    others = [] if analysis.neighbours is None else analysis.neighbours[0].tolist()
    return {"columns": columns, "neighbours": others, "num_clusters": len(sizes)}


def _share(key: str, title: str, meaning: str, shares: np.ndarray) -> dict[str, Any]:
    return _column(key, f"{title}, %", f"{meaning}, in % of the cluster", 100 * shares)


def _column(key: str, title: str, meaning: str, values: np.ndarray, texts: list[str] | None = None) -> dict[str, Any]:
    column: dict[str, Any] = {"key": key, "title": title, "meaning": meaning}
    if texts is not None:
        column["texts"] = texts
    if values.dtype.kind == "f":
        column["values"] = [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]
    else:
        column["values"] = [value if value >= 0 else None for value in values.tolist()]
    return column


def _used(numbers: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers of names, and these, without names that none has."""
    used = np.unique(numbers[numbers >= 0])
    renumbered = np.where(numbers >= 0, np.searchsorted(used, numbers), -1)
    return renumbered, [shown(names[number])[-_LONGEST_NAME:] or "(none)" for number in used]
