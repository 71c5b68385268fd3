"""What ``vissl-clusterfit report`` says of the folder of a run, and the page that it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vissl_clusterfit.api import open_artifact
from vissl_clusterfit.browse.analysis import Analysis
from vissl_clusterfit.browse.page import write_folder, write_page
from vissl_clusterfit.browse.places import pictures_of
from vissl_clusterfit.browse.run import Artifact, Run, one_run
from vissl_clusterfit.browse.under_way import under_way
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.commands.places import labels_in
from vissl_clusterfit.errors import ArtifactError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.comparison import format_quality, label_quality, read_classes
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.planner.plan import in_bytes
from vissl_clusterfit.report.results import RESULTS_NAME, read_results
from vissl_clusterfit.report.table import format_table
from vissl_clusterfit.storage.artifacts import has_manifest
from vissl_clusterfit.storage.folders import walk
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.verification.verify import find_artifacts

_MOST_CHARACTERS = 200


def report(
    folder: Path,
    *,
    other: Path | None = None,
    true: Path | None = None,
    images: str = "",
    named: Sequence[int] = (),
    map_method: str = "",
    html: Path | None = None,
    folder_of_page: Path | None = None,
) -> tuple[str, Path]:
    """All that is known of a run, as text, and the page of it, which is written.

    Args:
        folder: of the run, or above several.
        other: labels, or a run with some, of the same samples.
        true: a ``.npy`` file of true classes, for the labels.
        images: where they lie; "" for where the training has read them.
        named: clusters that are shown in any case.
        map_method: "pca", "umap", or "" for the better one that there is.
        html: the page; by default ``report.html`` in the run, or beside an artefact.
        folder_of_page: for the page with full pictures instead.

    Raises:
        ArtifactError: there is nothing, or another file where the page is to be.
        ConfigError, DataError: what was named does not fit the run.
    """
    found = _run_in(folder)
    other_labels = None if other is None else PseudoLabels.open(labels_in(other))
    parts = ["\n".join(_of_one(artifact, found.artifacts)) for artifact in found.artifacts]
    parts += [*found.run.unusable, *(stage.text for stage in found.run.under_way)]
    for labels in found.artifacts:
        if isinstance(labels, PseudoLabels) and len(labels.num_clusters) == 1:
            is_main = labels is found.run.labels
            compared = other_labels.folder if other_labels is not None and is_main else None
            parts.append(format_quality(label_quality(labels.folder, compared, true if is_main else None)))
    if found.run.results:
        parts.append(format_table(found.run.results))
    analysis = Analysis(
        found.run,
        other_labels,
        None if true is None else read_classes(true, found.run.num_samples),
        named,
        map_method,
    )
    analysis.require_known()
    pictures, note = pictures_of(found.run, images)
    if folder_of_page is not None:
        page = write_folder(analysis, folder_of_page, pictures, note)
    else:
        page = write_page(analysis, html or _page_of(folder), pictures, note)
    parts += [
        f"warning: {each.title}. {each.text} To change: {'; or '.join(each.settings)}." for each in analysis.findings
    ]
    return "\n\n".join([*parts, f"page: {page}"]), page


def _page_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}-report.html" if has_manifest(folder) else folder / "report.html"


class _Found(NamedTuple):
    run: Run
    artifacts: list[Artifact]


def _run_in(folder: Path) -> _Found:
    whole, unusable, stages = [], [], []
    for place in find_artifacts(folder):
        stage = under_way(place)
        if stage is not None:
            stages.append(stage)
            continue
        try:
            whole.append(open_artifact(place))
        except ArtifactError as error:
            unusable.append(f"cannot be used: {error}")
    rows = read_results(folder) if (folder / RESULTS_NAME).is_file() else []
    run = one_run(folder, whole, rows, stages, unusable)
    if not (whole or rows or unusable or stages or run.training):
        allowed = f"a folder with artefacts in it or below it, or with {RESULTS_NAME}"
        raise ArtifactError(problem("RUN", found=f"{folder}, with neither", allowed=allowed))
    return _Found(run, whole)


def _of_one(artifact: Artifact, others: list[Artifact]) -> Iterator[str]:
    kind = {FeatureStore: "features", Codebook: "codebook", PseudoLabels: "labels"}[type(artifact)]
    yield f"{kind}: {artifact.folder}{_size(artifact.folder)}"
    if isinstance(artifact, FeatureStore):
        unreadable = f", {len(artifact.unreadable)} could not be read" if len(artifact.unreadable) else ""
        yield f"  {artifact.num_samples} samples of dimension {artifact.dim}, {artifact.dtype}{unreadable}"
        yield from _inputs(artifact.inputs)
    elif isinstance(artifact, Codebook):
        facts = artifact.manifest
        yield f"  {artifact.num_clusters} clusters of {facts['num_points']} samples"
        yield from _origin("features", facts.get("features_hash"), others)
        yield from _inputs(facts["inputs"].get("settings", {}))
        if trace := facts.get("objective"):
            end = ", converged" if facts.get("converged") else ""
            yield f"  objective: {trace[0]:.6g} to {trace[-1]:.6g} in {len(trace)} iterations{end}"
    else:
        yield f"  {artifact.num_samples} samples, {artifact.num_unlabelled} without a label"
        yield from _origin("features", artifact.manifest.get("features_hash"), others)
        yield from _origin("codebook", artifact.manifest.get("codebook_hash"), others)
        yield from _inputs(
            {key: value for key, value in artifact.inputs.items() if key not in ("features", "codebook")}
        )


def _size(folder: Path) -> str:
    """What a folder takes of the disk; nothing where it is on none of this machine."""
    if as_remote(folder):
        return ""
    files = [place / name for place, names in walk(folder, lambda _: None) for name in names]
    return f", {in_bytes(sum(file.stat().st_size for file in files if file.is_file()))}"


def _origin(what: str, content_hash: str | None, others: list[Artifact]) -> Iterator[str]:
    """The artefact that another was made from, where it lies in the same folder."""
    kind = FeatureStore if what == "features" else Codebook
    for other in others:
        if isinstance(other, kind) and other.content_hash == content_hash:
            yield f"  made from: {other.folder}"


def _inputs(inputs: Mapping[str, Any]) -> Iterator[str]:
    for name, value in inputs.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"  {name}: {text if len(text) <= _MOST_CHARACTERS else f'{text[:_MOST_CHARACTERS]} …'}"
