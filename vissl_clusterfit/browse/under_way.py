"""How far a run is that has not ended: from what lies in its folders, without asking its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vissl_clusterfit.clustering.codebook import IN_PROGRESS, require_codebook_values
from vissl_clusterfit.clustering.codebook import KIND as CODEBOOK
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import KIND as FEATURES
from vissl_clusterfit.features.store import num_shards, require_store_values
from vissl_clusterfit.labels.files import PROGRESS_FILE
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.artifacts import MANIFEST_NAME
from vissl_clusterfit.storage.folders import names_in

#: Of the unreadable samples so far.
_MOST_REASONS = 1000


@dataclass(frozen=True)
class UnderWay:
    """A stage that has begun.

    Attributes:
        text: how far it is.
        inputs: what it makes its artefact from, as far as that is known.
        objective: of a clustering, per iteration.
        unreadable: of an extraction, the reasons so far, by the sample.
    """

    text: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    objective: tuple[float, ...] = ()
    unreadable: Mapping[int, str] = field(default_factory=dict)


def under_way(folder: Path) -> UnderWay | None:
    """How far an extraction, a clustering or a labelling in a folder is; None where none has begun."""
    try:
        names = names_in(folder)
        if any(name.startswith("iteration-") for name in names_in(folder / IN_PROGRESS)):
            return _clustering(folder / IN_PROGRESS)
        if PROGRESS_FILE in names and MANIFEST_NAME not in names:
            done = artifacts.read_json(folder / PROGRESS_FILE).get("num_done", 0)
            return UnderWay(f"{folder}: labelling, {done} samples so far")
        if MANIFEST_NAME in names:
            manifest = artifacts.read_manifest(folder)
            if manifest.get("kind") == FEATURES and not manifest.get("complete"):
                require_store_values(folder, manifest)
                return _extraction(folder, manifest, names)
    except (ArtifactError, OSError):  # it is being written, or is damaged, which is said of it as an artefact
        return None
    return None


def _extraction(folder: Path, manifest: Mapping[str, Any], names: set[str]) -> UnderWay:
    done = sorted(name for name in names if name.startswith("rows-") and name.endswith(".json"))
    reasons: dict[int, str] = {}
    for name in done:
        found = artifacts.read_json(folder / name).get("unreadable")
        if isinstance(found, dict) and len(reasons) < _MOST_REASONS:
            reasons |= {int(index): str(why) for index, why in found.items() if index.isdecimal()}
    total = num_shards(manifest)
    text = (
        f"{folder}: extraction, {len(done)} of {total} shards ({len(done) / max(1, total):.0%}) of "
        f"{manifest['num_samples']} samples; {len(reasons)} samples could not be read so far"
    )
    return UnderWay(text, manifest["inputs"], unreadable=reasons)


def _clustering(folder: Path) -> UnderWay | None:
    for name in sorted((name for name in names_in(folder) if name.startswith("iteration-")), reverse=True):
        try:
            manifest = artifacts.read_manifest(folder / name, CODEBOOK)
            require_codebook_values(folder / name, manifest)
        except ArtifactError:
            continue
        objective = tuple(map(float, manifest.get("objective", ())))
        most = manifest.get("num_iter", "?")
        text = f"{folder.parent}: clustering, {len(objective)} iterations of at most {most}"
        return UnderWay(text, manifest["inputs"], objective)
    return UnderWay(f"{folder.parent}: clustering, in its first iteration")
