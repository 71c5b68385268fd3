"""What ``vissl-clusterfit report`` says of the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vissl_clusterfit.api import open_artifact
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError, problem
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.comparison import format_quality, label_quality
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.planner.plan import in_bytes
from vissl_clusterfit.report.results import RESULTS_NAME, read_results
from vissl_clusterfit.report.table import format_table
from vissl_clusterfit.storage.folders import walk
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.verification.verify import find_artifacts

_MOST_CHARACTERS = 200

Artifact = FeatureStore | Codebook | PseudoLabels


def report(folder: Path, true: Path | None = None) -> str:
    """All that is known of a run, as text.

    Args:
        folder: of the run, or above several.
        true: a ``.npy`` file of true classes, for the labels.

    Raises:
        ArtifactError: there is nothing.
        DataError: the classes are not those of the samples.
    """
    whole, unusable = [], []
    for place in find_artifacts(folder):
        try:
            whole.append(open_artifact(place))
        except ArtifactError as error:
            unusable.append(f"cannot be used: {error}")
    rows = read_results(folder) if (folder / RESULTS_NAME).is_file() else []
    if not whole and not rows and not unusable:
        allowed = f"a folder with artefacts in it or below it, or with {RESULTS_NAME}"
        raise ArtifactError(problem("FOLDER", found=f"{folder}, with neither", allowed=allowed))
    parts = ["\n".join(_of_one(artifact, whole)) for artifact in whole]
    parts += unusable
    for labels in whole:
        if isinstance(labels, PseudoLabels) and len(labels.num_clusters) == 1:
            parts.append(format_quality(label_quality(labels.folder, true=true)))
    if rows:
        parts.append(format_table(rows))
    return "\n\n".join(parts)


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
