"""The page: one HTML file that needs nothing else, or a folder of it with full pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.browse import plots
from vissl_clusterfit.browse.analysis import Analysis
from vissl_clusterfit.browse.flow import Flow
from vissl_clusterfit.browse.folders import Sources
from vissl_clusterfit.browse.montages import Montages
from vissl_clusterfit.browse.pictures import Pictures
from vissl_clusterfit.browse.table import cluster_table
from vissl_clusterfit.browse.text import flattened, shown
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.report.table import table_cells
from vissl_clusterfit.storage.artifacts import MANIFEST_NAME
from vissl_clusterfit.storage.atomic import write_file

#: Tells a page of ours, which may be written over, from any other file.
MARK = "vissl-clusterfit report"
_FACTS = (
    *("num_samples", "num_points", "dim", "num_clusters", "dtype", "metric", "seed", "num_iter_run", "converged"),
    *("cluster_backend", "content_hash", "features_hash", "codebook_hash", "num_unlabelled", "imbalance", "bounded"),
    *("num_too_far", "drift"),
)
_PER_KIND = 6
_GROUPS_OF_COPIES, _OF_A_GROUP = 12, 6
_MOST_UNREADABLE = 200
_ROWS, _PARTS = 12, 4


def write_page(analysis: Analysis, file: Path, pictures: Pictures | None = None, note: str = "") -> Path:
    """Writes the page of a run.

    Args:
        analysis: of the run.
        file: ``.html``; written over if it is a page of ours.
        pictures: of the samples; None to show names and figures alone.
        note: why there are no pictures; "" where there are, or none are to be.

    Raises:
        ArtifactError: another file is there, or it cannot be written.
    """
    require_ours(file)
    text = page(analysis, Montages(pictures, analysis.names), note)
    write_file(file, lambda out: out.write(text.encode()))
    return file


def write_folder(analysis: Analysis, folder: Path, pictures: Pictures | None = None, note: str = "") -> Path:
    """The same as ``index.html`` in a folder, with the full pictures in ``pictures`` beside it."""
    require_ours(folder / "index.html")

    def save(name: str, content: bytes) -> str:
        write_file(folder / "pictures" / name, lambda out: out.write(content), synced=False)
        return f"pictures/{name}"

    text = page(analysis, Montages(pictures, analysis.names, save), note)
    write_file(folder / "index.html", lambda out: out.write(text.encode()))
    return folder / "index.html"


def require_ours(file: Path) -> None:
    """Refuses to write over what is no page of ours.

    Raises:
        ArtifactError: naming the file.
    """
    if file.is_dir():
        raise ArtifactError(problem(str(file), found="a folder", allowed="a file that is not there, or a page of ours"))
    if file.is_file():
        with file.open("rb") as there:
            if MARK.encode() not in there.read(4096):
                found, allowed = "another file", "a file that is not there, or a page of ours"
                raise ArtifactError(problem(str(file), found=found, allowed=allowed))


def page(analysis: Analysis, montages: Montages, note: str = "") -> str:
    """The text of the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from vissl_clusterfit import __version__

    loader = PackageLoader("vissl_clusterfit.browse", "assets")
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    style, script = (loader.get_source(templates, name)[0] for name in ("page.css", "page.js"))
    context = {
        "mark": MARK,
        "version": __version__,
        "style": style,
        "script": script,
        "style_hash": _integrity(style),
        "script_hash": _integrity(script),
        "run": analysis.run,
        "title": shown(str(analysis.run.folder)),
        "note": note,
        "shown": shown,
        "analysis": analysis,
        **_computed(analysis, montages),
    }
    return templates.get_template("page.html").render(context)


def _integrity(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _computed(analysis: Analysis, montages: Montages) -> dict[str, Any]:
    run, clusters = analysis.run, analysis.clusters
    found: dict[str, Any] = {
        "made_from": [_made_from(part) for part in (run.features, run.codebook, run.labels, *run.others) if part],
        "figures": _figures(analysis),
        "shown_clusters": _shown_clusters(analysis, montages),
        "copies": [],
        "unreadable": [
            (index, montages.name_of(index), shown(reason))
            for index, reason in list(run.unreadable.items())[:_MOST_UNREADABLE]
        ],
        "stability_rows": _rows(analysis.stability, "stability", str),
        "class_rows": _rows(analysis.classes, "main_shares", str),
        "folder_rows": [],
        "results": table_cells(run.results) if run.results else None,
        "table": cluster_table(analysis),
        "montages": montages,
    }
    if analysis.sources is not None:
        names = analysis.sources.names
        suspects = np.concatenate([analysis.sources.mixed, analysis.sources.of_one])
        name_of = partial(_name_of, names)
        found["folder_rows"] = _rows(analysis.sources.flow, "main_shares", name_of, suspects)
    if analysis.copies is not None:
        groups = analysis.copies.groups[:_GROUPS_OF_COPIES]
        found["copies"] = [(len(group), montages.of(group[:_OF_A_GROUP])) for group in groups]
    found["num_shown"] = 0 if clusters is None else len(found["shown_clusters"])
    return found


def _name_of(names: list[str], number: int) -> str:
    return shown(names[number]) or "(none)"


def _made_from(artifact: FeatureStore | Codebook | PseudoLabels) -> dict[str, Any]:
    kind = {FeatureStore: "Features", Codebook: "Codebook", PseudoLabels: "Labels"}
    inputs: Mapping[str, Any] = artifact.manifest["inputs"]
    if isinstance(artifact, (Codebook, PseudoLabels)):  # what the features were made from is said of them
        inputs = {key: value for key, value in inputs.items() if key not in ("features", "codebook")}
    facts = {key: artifact.manifest[key] for key in _FACTS if key in artifact.manifest}
    return {
        "kind": next(name for of, name in kind.items() if isinstance(artifact, of)),
        "place": shown(str(artifact.folder)),
        "manifest": shown(str(artifact.folder / MANIFEST_NAME)),
        "rows": [*flattened(inputs), *flattened(facts)],
    }


def _figures(analysis: Analysis) -> dict[str, str]:
    run, clusters, drawn = analysis.run, analysis.clusters, {}
    trace = (run.codebook.manifest.get("objective") or ()) if run.codebook else ()
    trace = trace or next((each.objective for each in run.under_way if each.objective), ())
    if trace:
        curve = {"objective": (list(range(1, len(trace) + 1)), list(trace))}
        drawn["objective"] = plots.lines(curve, "iteration", "mean squared distance", "objective")
    if clusters is not None:
        drawn["sizes"] = plots.size_curve(clusters)
        if clusters.distances is not None and clusters.margins is not None:
            own = {"clustered": clusters.distances[clusters.order]}
            others = {shown(drift.folder.name): drift.distances for drift in analysis.drifts[:3]}
            drawn["distances"] = plots.histogram(own | others, "squared distance to the centroid", "distances")
            margins = {"margin": clusters.margins[clusters.order]}
            drawn["margins"] = plots.histogram(margins, "how much farther, squared, the next one is", "margins")
    if analysis.plane is not None and analysis.sizes is not None:
        drawn["map"] = plots.cluster_map(analysis.plane[0], analysis.sizes, analysis.plane[1])
    if analysis.stability is not None:
        values = {"clusters": analysis.stability.stability}
        drawn["stability"] = plots.histogram(values, "Jaccard coefficient", "stability")
    if run.training is not None:
        if run.training.loss[0]:
            drawn["loss"] = plots.lines({"loss": run.training.loss}, "iteration", "loss", "loss")
        if run.training.scores:
            drawn["scores"] = plots.lines(run.training.scores, "epoch", "%", "scores")
    return drawn


def _shown_clusters(analysis: Analysis, montages: Montages) -> list[dict[str, Any]]:
    clusters, found, seen = analysis.clusters, [], set()
    if clusters is None:
        return []
    for kind, chosen in analysis.chosen.items():
        for number in chosen:
            if number in seen:
                continue
            seen.add(number)
            kinds = {
                "nearest to the centroid": clusters.nearest(number, _PER_KIND),
                "at the border to another": clusters.at_border(number, _PER_KIND),
                "farthest": clusters.farthest(number, _PER_KIND),
            }
            if clusters.distances is None:
                kinds = {"samples": clusters.nearest(number, _PER_KIND)}
            strips = [(title, montages.of(samples)) for title, samples in kinds.items() if len(samples)]
            others = [] if analysis.neighbours is None else analysis.neighbours[0][number].tolist()
            found.append({"number": number, "kind": kind, "strips": strips, "neighbours": others})
            found[-1]["folders"] = _folders(analysis.sources, number)
            found[-1]["size"] = int(clusters.sizes[number])
            found[-1]["distance"] = float(clusters.mean_distances[number])
    return found


def _folders(sources: Sources | None, cluster: int) -> list[tuple[str, float]]:
    """The most frequent folders of a cluster, and their shares."""
    if sources is None:
        return []
    size = sources.flow.cluster_sizes[cluster]
    return [(_name_of(sources.names, group), count / size) for group, count in sources.flow.of(cluster, _PARTS)]


def _rows(
    found: Flow | None, measure: str, name_of: Callable[[int], str], first: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """The worst clusters by a measure, with what they are made up of."""
    if found is None:
        return []
    values = getattr(found, measure)
    ranked = np.argsort(np.nan_to_num(values, nan=2.0), kind="stable") if first is None else first
    return [
        {
            "cluster": int(cluster),
            "value": float(values[cluster]),
            "size": int(found.cluster_sizes[cluster]),
            "parts": [
                (name_of(group), count, count / found.cluster_sizes[cluster])
                for group, count in found.of(int(cluster), _PARTS)
            ],
        }
        for cluster in ranked[:_ROWS]
        if not np.isnan(values[cluster])
    ]
