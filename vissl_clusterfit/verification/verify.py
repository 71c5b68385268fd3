"""Whether artefacts hold what was written: every file against its manifest, each artefact against those it came from.

Opening an artefact checks shapes, counts and coverage. Here all of it is read, in memory that does not grow with the
number of samples. What is wrong is reported, one line each, and never raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl_clusterfit.clustering import codebook
from vissl_clusterfit.clustering.codebook import IN_PROGRESS
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features import store
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.labels import pseudo_labels
from vissl_clusterfit.labels.files import DISTANCES_FILE
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.artifacts import MANIFEST_NAME, ArtifactPaths
from vissl_clusterfit.storage.folders import names_in, walk
from vissl_clusterfit.verification.files import Contents, require_inside
from vissl_clusterfit.verification.origins import contradictions
from vissl_clusterfit.verification.rules import check_codebook, check_labels, check_store

_CHECKS = {store.KIND: check_store, codebook.KIND: check_codebook, pseudo_labels.KIND: check_labels}
_VALUES = {
    store.KIND: store.require_store_values,
    codebook.KIND: codebook.require_codebook_values,
    pseudo_labels.KIND: pseudo_labels.require_label_values,
}
_OPEN = {
    store.KIND: store.FeatureStore.open,
    codebook.KIND: codebook.Codebook.open,
    pseudo_labels.KIND: pseudo_labels.PseudoLabels.open,
}
# A folder with one of these files is an artefact, or was to become one, whatever has happened to its manifest.
_SIGNS = {SAMPLES_FILE, codebook.CENTROIDS_FILE, DISTANCES_FILE}


def verify_artifact(folder: Path) -> list[str]:
    """Reads one artefact, all of it.

    Args:
        folder: of a feature store, a codebook, or pseudo-labels.

    Returns:
        What is wrong, each naming the file or folder; nothing if all is well.
    """
    return _verify(folder, (), {folder: []})


def _verify(folder: Path, origins: Sequence[_Origin], known: dict[Path, list[str]]) -> list[str]:
    """What is wrong with one artefact; what is ``known`` of others, and has to be known, is brought up to date."""
    problems: list[str] = []
    try:
        manifest = _read_manifest(folder)
        contents = Contents(folder, manifest)
        problems = contents.problems
        _VALUES[manifest["kind"]](folder, manifest)
        _CHECKS[manifest["kind"]](contents)
        contents.require_no_other_names()
        if not problems:
            _OPEN[manifest["kind"]](folder)
            made_of: dict[str, Path] = {}
            problems.extend(_wrong_origins(folder, manifest, origins, made_of))
            for origin in made_of.values():
                if origin not in known:
                    known[origin] = _verify(origin, origins, known)
            # What is made from a damaged artefact can't be held against it.
            if (
                manifest["kind"] == pseudo_labels.KIND
                and len(made_of) == 2
                and not any(map(known.get, made_of.values()))
            ):
                problems.extend(contradictions(folder, made_of[store.KIND], made_of[codebook.KIND]))
    except ArtifactError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"{folder} cannot be read: {error}.")
    except Exception as error:  # there is no end to what a manifest can say in the wrong place
        problems.append(f"{folder / MANIFEST_NAME} makes no sense: {error!r}.")
    return problems


def verify_artifacts(folders: Sequence[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Reads all artefacts that :func:`find_artifacts` finds, and checks that those of one run are made from each other.

    Args:
        folders: of artefacts, of runs, of anything above.

    Yields:
        The folder of each artefact, and what is wrong with it.
    """
    found = sorted({artifact for folder in folders for artifact in find_artifacts(folder)}, key=str)
    origins = [origin for folder in found if (origin := _Origin.of(folder))]
    known: dict[Path, list[str]] = {}
    for folder in found:
        if folder not in known:
            known[folder] = _verify(folder, origins, known)
        yield folder, known[folder]


def how_to_mend(folder: Path, problems: Sequence[str]) -> str:
    """What to do about an artefact with problems; "" where they say it themselves."""
    if all(any(verb in problem for verb in ("Delete ", "Make ", "Run ", "Upgrade ")) for problem in problems):
        return ""
    return (
        f"Delete {folder} and run its stage again. Of features, the damaged shards will do, each with its .json, and "
        f"{MANIFEST_NAME}: the extraction makes these alone."
    )


def find_artifacts(folder: Path) -> list[Path]:
    """The folders of all artefacts in a folder and below it, whole or not, in the order of their names."""
    found: list[Path] = []

    def refused(error: OSError) -> None:
        if isinstance(error, PermissionError):
            found.append(Path(error.filename))  # no artefact can be seen there, but there may be one

    for place, files in walk(folder, refused):
        # What was being written into an iteration when its process died is never read.
        begun = not _SIGNS.isdisjoint(files) and place.parent.name != IN_PROGRESS
        if begun or (MANIFEST_NAME in files and _is_ours(place)) or _has_iterations(place):
            found.append(place)
    return sorted(found)


def _has_iterations(folder: Path) -> bool:
    try:
        return any(name.startswith("iteration-") for name in names_in(folder / IN_PROGRESS))
    except OSError:
        return False  # it cannot be read, which is reported when the walk comes to it


def _is_ours(folder: Path) -> bool:
    try:
        require_inside(folder, MANIFEST_NAME)
        return artifacts.read_json(folder / MANIFEST_NAME).get("kind") in [*_CHECKS]
    except (ArtifactError, OSError):
        return True  # it may be one


def _read_manifest(folder: Path) -> dict[str, Any]:
    if MANIFEST_NAME not in names_in(folder):
        raise ArtifactError(f"{folder} is incomplete: it has no {MANIFEST_NAME}. Run its stage again; it resumes.")
    require_inside(folder, MANIFEST_NAME)
    manifest = artifacts.read_manifest(folder)
    if manifest.get("kind") not in [*_CHECKS]:
        raise ArtifactError(f"{folder} must hold one of {', '.join(_CHECKS)}, found a {manifest.get('kind')!r}.")
    return manifest


@dataclass(frozen=True)
class _Origin:
    """A feature store or a codebook that others may be made from."""

    folder: Path
    manifest: Mapping[str, Any]
    content_hash: str

    @classmethod
    def of(cls, folder: Path) -> _Origin | None:
        try:
            manifest = _read_manifest(folder)
            if manifest["kind"] == store.KIND and manifest.get("complete"):
                return cls(folder, manifest, manifest["content_hash"])
            if manifest["kind"] == codebook.KIND and folder.parent.name != IN_PROGRESS:
                return cls(folder, manifest, codebook.codebook_hash(manifest))
        except (ArtifactError, OSError, KeyError, TypeError):
            pass  # it is named when it is verified itself
        return None


def _wrong_origins(
    folder: Path, manifest: Mapping[str, Any], origins: Sequence[_Origin], made_of: dict[str, Path]
) -> Iterator[str]:
    """Which of the artefacts that ``folder`` was made from are other ones now; adds the right ones to ``made_of``."""
    if manifest["kind"] == store.KIND or manifest.get("imported"):
        return
    run = folder.parent.parent
    beside = ArtifactPaths(output_dir=run, features_dir=run / "features")
    places = {store.KIND: beside.features(folder.name), codebook.KIND: beside.codebook}
    named = {store.KIND: ("features", manifest["features_hash"])}
    if manifest["kind"] == pseudo_labels.KIND:
        named[codebook.KIND] = ("codebook", manifest["codebook_hash"])
    for kind, (name, content_hash) in named.items():
        made_from = manifest["inputs"][name]
        of_kind = [origin for origin in origins if origin.manifest["kind"] == kind]
        # Those in the same run; elsewhere, those that should be the same by what they are made from.
        near = [origin for origin in of_kind if origin.folder == places[kind]] or [
            origin for origin in of_kind if origin.manifest["inputs"] == made_from
        ]
        if near and content_hash not in {origin.content_hash for origin in near}:
            yield (
                f"{folder} was made from another {kind} than the one in {near[0].folder}: from {content_hash}, "
                f"found {near[0].content_hash}. Delete what is of the other run."
            )
        for origin in near:
            if origin.content_hash == content_hash:
                made_of[kind] = origin.folder
