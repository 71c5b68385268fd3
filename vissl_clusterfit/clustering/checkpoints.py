"""The iterations of a clustering that is under way, on disk: each a codebook, with the sums that later ones need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import KIND, Codebook
from vissl_clusterfit.clustering.kmeans import KMeansResult, Sums
from vissl_clusterfit.clustering.minibatches import NUM_PARTS
from vissl_clusterfit.clustering.protocol import ClusterSums, Fraction
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.folders import names_in, remove_folder
from vissl_clusterfit.storage.unchanged import require_unchanged

logger = logging.getLogger(__name__)

_PREFIX = "iteration-"
_SUMS, _COUNTS = "sums.npy", "sum_counts.npy"


def save_checkpoint(
    folder: Path, state: KMeansResult, sums: Sums, save: Callable[[Path, Mapping[str, Any]], object]
) -> None:
    """Keeps the state after an iteration, and no more of those before than it needs.

    Nobody waits for the disk: of files that a loss of power damages, the hashes tell, and an iteration before is there.

    Args:
        folder: of all iterations.
        state: after this one.
        sums: that it carries and found.
        save: writes a codebook into a folder, with facts for its manifest.
    """
    number = len(state.objective)
    place = _place(folder, number)
    artifacts.remove_manifest(place)
    digests = {}
    if sums:
        arrays = {_SUMS: [of.sums for of in sums.values()], _COUNTS: [of.counts for of in sums.values()]}
        digests = {
            name: artifacts.write_array(place / name, np.stack(array), synced=False) for name, array in arrays.items()
        }
    facts: dict[str, Any] = {"seconds": state.seconds} if state.seconds else {}
    facts |= {
        "num_still": state.num_unchanged,
        "carried": state.retained,
        "sums_of": list(sums),
        "sums_sha256": digests,
    }
    save(place, facts)
    needed = NUM_PARTS if state.retained else 1
    for name in names_in(folder):
        if name.startswith(_PREFIX) and name <= _place(folder, number - needed).name:
            remove_folder(folder / name)


def last_checkpoint(folder: Path, inputs: Mapping[str, Any], features_hash: str) -> Path | None:
    """The last iteration from which a clustering that was stopped can go on, if it was this clustering."""
    kept = [name for name in names_in(folder) if name.startswith(_PREFIX)]
    for place in (folder / name for name in sorted(kept, reverse=True)):
        try:
            codebook = Codebook.open(place, inputs)
            if codebook.manifest["features_hash"] != features_hash:
                continue
            _carried_sums(codebook)
        except (ArtifactError, KeyError, TypeError, ValueError) as error:
            logger.info("A saved iteration is not used: %s", error)
            continue
        return place
    return None


def state_of(codebook: Codebook) -> tuple[KMeansResult, Sums]:
    """What k-means resumes from."""
    manifest = codebook.manifest
    state = KMeansResult(
        centroids=codebook.centroids,
        objective=tuple(manifest["objective"]),
        shares=tuple(manifest["shares"]),
        repaired=tuple(manifest["empty_clusters_repaired"]),
        counts=codebook.counts,
        num_points=manifest["num_points"],
        num_unchanged=manifest["num_still"],
        converged=manifest["converged"],
        retained=_shares(manifest["carried"]),
        seconds=tuple(manifest.get("seconds", ())),
    )
    return state, _carried_sums(codebook)


def _carried_sums(codebook: Codebook) -> Sums:
    """Of each share those of the last iteration that found them.

    Raises:
        ArtifactError: some are missing or damaged.
    """
    number = len(codebook.manifest["objective"])
    missing = set(_shares(codebook.manifest["carried"]))
    found: Sums = {}
    for place in (_place(codebook.folder.parent, earlier) for earlier in range(number, number - NUM_PARTS, -1)):
        if not missing:
            break
        manifest = artifacts.read_manifest(place, KIND)
        artifacts.require_same_inputs(place, manifest["inputs"], codebook.manifest["inputs"])
        shares = _shares(manifest["sums_of"])
        if missing.isdisjoint(shares):
            continue
        for name in (_SUMS, _COUNTS):
            require_unchanged(place / name, manifest["sums_sha256"][name])
        sums, counts = (artifacts.read_array(place / name) for name in (_SUMS, _COUNTS))
        for share, of_share, its_counts in zip(shares, sums, counts, strict=True):
            if share in missing:
                found[share] = ClusterSums(of_share, its_counts, squares=0.0)  # which is for objectives that are known
        missing.difference_update(shares)
    if missing:
        raise ArtifactError(f"{codebook.folder} needs sums of {sorted(missing)}, which are not there any more.")
    return found


def _shares(listed: list[list[float]]) -> tuple[Fraction, ...]:
    return tuple((low, high) for low, high in listed)


def _place(folder: Path, number: int) -> Path:
    return folder / f"{_PREFIX}{number:06d}"
