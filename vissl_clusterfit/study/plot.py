"""The curves of a study, as in the paper's figure: accuracy against the point, one line per method."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from vissl_clusterfit.study.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_INCHES = (3.4, 3.0)


def curves(report: Report) -> bytes:
    """A PNG: a row of panels per benchmark, a panel per target; bars are the 95 % intervals."""
    from matplotlib.figure import Figure  # takes a second, and only the end of a study needs it

    shape = len(report.benchmarks), len(report.targets)
    figure = Figure(figsize=(_PANEL_INCHES[0] * shape[1], _PANEL_INCHES[1] * shape[0] + 0.6), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False, sharex=True)
    points = list(report.settings.named_points)
    for benchmark, row in zip(report.benchmarks, panels, strict=True):
        for target, panel in zip(report.targets, row, strict=True):
            for number, method in enumerate(report.methods):
                found = [report.interval(benchmark, target, method, point) for point in points]
                panel.errorbar(
                    points,
                    [100 * each.mean for each in found],
                    yerr=[100 * each.half_width for each in found],
                    color=f"C{number}",
                    marker="o",
                    markersize=4,
                    linewidth=1.5,
                    capsize=3,
                    label=report.shown(method),
                )
            panel.set_title(f"{benchmark}, {target}", fontsize=10)
            panel.grid(alpha=0.3)
        row[0].set_ylabel("top-1 accuracy in %")
    for panel in panels[-1]:
        panel.set_xlabel(report.settings.axis)
    _add_legend(figure, *panels[0][0].get_legend_handles_labels())
    figure.suptitle(report.settings.name)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    return image.getvalue()


def _add_legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """Below the panels, in as many rows as its width needs."""
    for num_columns in range(len(labels), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=num_columns)
        if legend.get_window_extent().width <= figure.bbox.width or num_columns == 1:
            return
        legend.remove()
