"""The figures of a page, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from vissl_clusterfit.browse.clusters import Clusters
from vissl_clusterfit.browse.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE, _WIDE = (5.0, 2.9), (7.0, 5.0)
# Told apart by their lines, too; both can be read on white and on black.
_STYLES = (("#3b78c2", "-"), ("#c76b12", "--"), ("#2d8f5a", ":"), ("#a14fb0", "-."))
_BINS = 60
#: More points than these are one picture in the figure.
_MOST_POINTS = 20_000
_NAMED, _LEVELS = 12, 6


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, prefix: str) -> str:
    """Curves, each with its name, x and y."""
    figure, panel = _panel()
    for (name, (x, y)), (color, style) in zip(curves.items(), _STYLES * len(curves), strict=False):
        panel.plot(x, y, color=color, linestyle=style, marker="." if len(x) < 60 else "", label=name)
    panel.set_xlabel(xlabel)
    panel.set_ylabel(ylabel)
    if len(curves) > 1:
        panel.legend(fontsize=8, framealpha=0)
    ends = "; ".join(f"{name} from {y[0]:.4g} to {y[-1]:.4g}" for name, (_, y) in curves.items() if len(y))
    return inline_svg(figure, prefix, f"{ylabel} over {xlabel}: {ends}")


def size_curve(clusters: Clusters) -> str:
    """The sizes of the clusters, largest first; empty and giant ones are named."""
    figure, panel = _panel()
    order = np.argsort(-clusters.sizes, kind="stable")
    sizes = clusters.sizes[order]
    shown = np.unique(np.round(np.geomspace(1, len(sizes), 1500)).astype(int)) - 1 if len(sizes) > 2000 else slice(None)
    ranks = np.arange(1, len(sizes) + 1)
    panel.step(ranks[shown], sizes[shown], where="mid", color=_STYLES[0][0])
    median = float(np.median(sizes))
    panel.axhline(median, color=_STYLES[1][0], linestyle="--", linewidth=1)
    panel.annotate(f"median {median:g}", (ranks[-1], median), ha="right", va="bottom", fontsize=8)
    panel.set_yscale("symlog", linthresh=1)
    panel.set_ylim(bottom=0)
    for place, cluster in enumerate(clusters.giants[:3]):
        panel.annotate(f"cluster {cluster}", (place + 1, clusters.sizes[cluster]), fontsize=8)
    if num_empty := len(clusters.empty):
        panel.annotate(f"{num_empty} empty", (ranks[-1], 0), ha="right", va="bottom", fontsize=8)
    panel.set_xlabel("clusters, the largest first")
    panel.set_ylabel("samples")
    ends = f"largest {sizes[0]}, median {median:g}, smallest {sizes[-1]}, {num_empty} empty"
    text = f"Sizes of {len(sizes)} clusters: {ends}"
    return inline_svg(figure, "sizes", text)


def histogram(values: Mapping[str, np.ndarray], xlabel: str, prefix: str) -> str:
    """One or several distributions, each as shares of its own number."""
    figure, panel = _panel()
    finite = {name: each[np.isfinite(each)] for name, each in values.items()}
    known = [each for each in finite.values() if len(each)]
    most = max((float(np.percentile(each, 99.5)) for each in known), default=1.0) or 1.0
    edges = np.linspace(0.0, most, _BINS + 1)
    said = []
    for (name, each), (color, style) in zip(finite.items(), _STYLES, strict=False):
        counts = np.histogram(np.minimum(each, most), edges)[0]
        panel.stairs(counts / max(1, len(each)), edges, color=color, linestyle=style, label=name)
        if len(each):
            low, middle, high = np.percentile(each, (5, 50, 95))
            said.append(f"{name}: 5 % below {low:.4g}, median {middle:.4g}, 95 % below {high:.4g}")
    panel.set_xlabel(xlabel)
    panel.set_ylabel("share of samples")
    if len(values) > 1:
        panel.legend(fontsize=8, framealpha=0)
    return inline_svg(figure, prefix, f"Histogram of {xlabel}. {'; '.join(said)}")


def cluster_map(points: np.ndarray, sizes: np.ndarray, how: str) -> str:
    """The centroids in a plane, larger where a cluster has more samples; each point says which cluster it is."""
    figure, panel = _panel(_WIDE)
    # Marks of one size are one shape that is drawn often.
    level = np.ceil(_LEVELS * np.sqrt(sizes / max(1, sizes.max()))).astype(np.int64)
    of_levels = {f"clusters{each}": np.flatnonzero(level == each) for each in np.unique(level)}
    for name, clusters in of_levels.items():
        size = 4 + 10 * float(level[clusters[0]])
        marks = panel.scatter(points[clusters, 0], points[clusters, 1], s=size, color=_STYLES[0][0], linewidths=0)
        marks.set(alpha=0.55, rasterized=len(points) > _MOST_POINTS, gid=name)
    for cluster in np.argsort(-sizes, kind="stable")[:_NAMED]:
        panel.annotate(str(cluster), points[cluster], fontsize=8)
    panel.set_axis_off()

    def name_points(root: ElementTree.Element) -> None:
        for name, clusters in of_levels.items():
            group = root.find(f".//g[@id='map-{name}']")
            # Many are uses of a shape that is defined once; one alone is a path.
            marks = [] if group is None else list(group.iter("use")) or group.findall("path")
            for cluster, mark in zip(clusters.tolist(), marks, strict=False):
                for common in {"fill", "fill-opacity", "clip-path", "stroke"} & mark.attrib.keys():
                    if group is not None and common != "clip-path":
                        group.set(common, mark.attrib[common])
                    del mark.attrib[common]
                for place in {"x", "y"} & mark.attrib.keys():
                    mark.set(place, f"{float(mark.attrib[place]):.1f}")
                mark.set("data-cluster", str(cluster))

    text = f"Map of {len(points)} centroids, {how}. The largest {_NAMED} are named; all are in the table of clusters"
    return inline_svg(figure, "map", text, name_points)


def _panel(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.set_axisbelow(True)
    return figure, panel
