"""``Codebook``: centroids and the preprocessing that fit and assign share, as an artefact on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.preprocessing import EXACT, IN_FLOAT32, Preprocessing
from vissl_clusterfit.errors import ArtifactError, with_remedy
from vissl_clusterfit.search.backends import search_factory
from vissl_clusterfit.search.protocol import Search
from vissl_clusterfit.search.two_level import NUM_PROBED, TwoLevelSearch
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.manifest_values import (
    HASHES,
    NUMBER,
    OBJECT,
    TEXT,
    YES_OR_NO,
    Value,
    list_of,
    one_of,
    require_values,
    whole,
)
from vissl_clusterfit.storage.unchanged import require_unchanged

KIND = "codebook"
#: The folder below that of a codebook in the making, with its last iterations.
IN_PROGRESS = "in_progress"
#: Within it, on two levels, the iterations over all fine centroids.
REFINEMENT = "refinement"
CENTROIDS_FILE, COUNTS_FILE = "centroids.npy", "counts.npy"
COARSE_FILE, FINE_COUNTS_FILE = "coarse_centroids.npy", "fine_counts.npy"
_MEAN, _COMPONENTS = "pca_mean.npy", "pca_components.npy"


@dataclass(frozen=True, eq=False)
class Codebook:
    """K centroids and the map from raw features to the space they are in.

    Attributes:
        folder: where it lies.
        manifest: what it was made from, and how the clustering went.
        centroids: (K, D) float32.
        counts: (K,) int64, how many vectors each cluster had in the last iteration.
        preprocessing: from raw features of ``input_dim`` dimensions to vectors of D.
        input_dim: dimensions of the raw features that it labels.
        content_hash: of all that decides labels: codebooks with the same hash give the same ones.
        coarse_centroids: (C, D) float32 of a clustering on two levels; None on one.
        fine_counts: (C,) int64, how many centroids each coarse cluster has, in the order of the centroids; or None.
    """

    folder: Path
    manifest: Mapping[str, Any]
    centroids: np.ndarray
    counts: np.ndarray
    preprocessing: Preprocessing
    input_dim: int
    content_hash: str
    coarse_centroids: np.ndarray | None = None
    fine_counts: np.ndarray | None = None

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.centroids)

    @classmethod
    def open(cls, folder: Path, expected_inputs: Mapping[str, Any] | None = None) -> Codebook:
        """Opens a codebook.

        Args:
            folder: of the codebook.
            expected_inputs: what it must have been made from, as :func:`codebook_inputs` gives it.

        Raises:
            ArtifactError: it is missing, not what its manifest says, or made from other inputs.
        """
        manifest = artifacts.read_manifest(folder, KIND)
        if expected_inputs is not None:
            artifacts.require_same_inputs(folder, manifest["inputs"], expected_inputs)
        require_codebook_values(folder, manifest)
        try:
            steps, input_dim = manifest["preprocessing"], int(manifest["input_dim"])
            sha256 = manifest["sha256"]
            arrays = {
                name: _read(folder, name, sha256[name], *expected) for name, expected in array_shapes(manifest).items()
            }
            counts = arrays[COUNTS_FILE]
            preprocessing = Preprocessing(
                bool(steps["normalize"]),
                arrays.get(_MEAN),
                arrays.get(_COMPONENTS),
                bool(steps["unit_output"]),
                steps.get("product", IN_FLOAT32),  # which older ones don't say
            )
            num_points, content_hash = manifest["num_points"], codebook_hash(manifest)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / artifacts.MANIFEST_NAME} is damaged: {error!r}. {_REMEDY}") from None
        dim = arrays[CENTROIDS_FILE].shape[1]
        if preprocessing.output_dim(input_dim) != dim:
            raise ArtifactError(f"{folder}: dim is {dim} and input_dim {input_dim}, but there is no projection.")
        if counts.sum() != num_points:
            raise ArtifactError(
                f"{folder / COUNTS_FILE} counts {counts.sum()} features, the manifest {num_points}. {_REMEDY}"
            )
        coarse, fine_counts = arrays.get(COARSE_FILE), arrays.get(FINE_COUNTS_FILE)
        if fine_counts is not None and not is_split(fine_counts, len(counts)):
            raise ArtifactError(
                f"{folder / FINE_COUNTS_FILE} must give each of {len(counts)} clusters to a coarse one. {_REMEDY}"
            )
        centroids = arrays[CENTROIDS_FILE]
        return cls(folder, manifest, centroids, counts, preprocessing, input_dim, content_hash, coarse, fine_counts)

    @classmethod
    def save(
        cls,
        folder: Path,
        inputs: Mapping[str, Any],
        centroids: np.ndarray,
        counts: np.ndarray,
        preprocessing: Preprocessing,
        facts: Mapping[str, Any],
        two_levels: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        synced: bool = True,
    ) -> Codebook:
        """Writes a codebook, the manifest last, and opens it.

        Args:
            folder: made if it is missing; what a killed run left in it is written over.
            inputs: what it was made from.
            centroids: (K, D) float32.
            counts: (K,) int64.
            preprocessing: what was applied to the features.
            facts: of the clustering; ``input_dim`` must be one of them.
            two_levels: ``coarse_centroids`` and ``fine_counts`` of a clustering on two levels.
            synced: see ``whole_files.write_file``.
        """
        artifacts.remove_manifest(folder)
        arrays = {CENTROIDS_FILE: centroids, COUNTS_FILE: counts}
        if preprocessing.mean is not None and preprocessing.components is not None:
            arrays |= {_MEAN: preprocessing.mean, _COMPONENTS: preprocessing.components}
        if two_levels is not None:
            arrays |= dict(zip((COARSE_FILE, FINE_COUNTS_FILE), two_levels, strict=True))
        digests = {name: artifacts.write_array(folder / name, array, synced=synced) for name, array in arrays.items()}
        steps: dict[str, Any] = {
            "normalize": preprocessing.normalize,
            "num_components": 0 if preprocessing.components is None else len(preprocessing.components),
            "unit_output": preprocessing.unit_output,
        }
        if preprocessing.components is not None and preprocessing.product != IN_FLOAT32:
            steps["product"] = preprocessing.product
        shape = {"num_clusters": centroids.shape[0], "dim": centroids.shape[1], "num_points": int(counts.sum())}
        if two_levels is not None:
            shape["num_coarse_clusters"] = len(two_levels[1])
        artifacts.write_manifest(folder, KIND, inputs, {**facts, **shape, "preprocessing": steps, "sha256": digests})
        return cls.open(folder)

    def search(self, device: str = "cpu") -> Search:
        """The search of the clusters of raw features (n, input_dim) float32, by the backend that made the codebook.

        Distances are those to the centroids, in their space. On two levels, clusters are the nearest of those that were
        looked at: see ``two_level.py``.

        Args:
            device: "cpu" or "cuda".
        """
        factory = search_factory(self.manifest["cluster_backend"], device)
        if self.coarse_centroids is None or self.fine_counts is None:
            return _PreparedSearch(factory(self.centroids), self.preprocessing)
        probed = int(self.manifest.get("num_probed", NUM_PROBED))
        if probed >= len(self.fine_counts):
            return _PreparedSearch(factory(self.centroids), self.preprocessing)
        two_levels = TwoLevelSearch(self.centroids, self.coarse_centroids, self.fine_counts, factory, probed)
        return _PreparedSearch(two_levels, self.preprocessing)


class _PreparedSearch:
    """A search that prepares its vectors first, on the processor."""

    card = None

    def __init__(self, search: Search, preprocessing: Preprocessing) -> None:
        self._search = search
        self._prepare = preprocessing.apply
        self.num_clusters, self.num_threads, self.num_rows = search.num_clusters, search.num_threads, search.num_rows

    def labels(self, rows_nD: np.ndarray) -> np.ndarray:
        return self._search.labels(self._prepare(rows_nD))

    def nearest(self, rows_nD: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        return self._search.nearest(self._prepare(rows_nD), count)


def codebook_hash(manifest: Mapping[str, Any]) -> str:
    """The content hash of a codebook: of its preprocessing and of the bytes of every array."""
    return artifacts.content_hash([manifest["preprocessing"], manifest["sha256"]])


def array_shapes(manifest: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every file, as the manifest says."""
    num_clusters, dim, input_dim = (int(manifest[name]) for name in ("num_clusters", "dim", "input_dim"))
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        CENTROIDS_FILE: ((num_clusters, dim), "float32"),
        COUNTS_FILE: ((num_clusters,), "int64"),
    }
    if manifest["preprocessing"]["num_components"]:
        shapes |= {_MEAN: ((input_dim,), "float32"), _COMPONENTS: ((dim, input_dim), "float32")}
    if "num_coarse_clusters" in manifest:
        num_coarse = int(manifest["num_coarse_clusters"])
        shapes |= {COARSE_FILE: ((num_coarse, dim), "float32"), FINE_COUNTS_FILE: ((num_coarse,), "int64")}
    return shapes


def is_split(fine_counts: np.ndarray, num_clusters: int) -> bool:
    """Whether (C,) counts of fine clusters make up all K, none less than 0."""
    return bool(fine_counts.sum() == num_clusters and fine_counts.min(initial=0) >= 0)


_REMEDY = "Delete the folder and make the codebook again."


_VALUES: dict[str, Value] = {
    "num_clusters": whole(1),
    "dim": whole(1),
    "input_dim": whole(1),
    "num_points": whole(),
    "preprocessing": OBJECT,
    "sha256": HASHES,
    "cluster_backend": TEXT,
}
_MORE_VALUES: dict[str, Value] = {
    "num_coarse_clusters": whole(1),
    "num_probed": whole(1),
    "num_samples": whole(),
    "num_iter": whole(),
    "num_iter_run": whole(),
    "num_empty_clusters": whole(),
    "num_still": whole(),
    "objective": list_of(NUMBER),
    "coarse_objective": list_of(NUMBER),
    "shares": list_of(NUMBER),
    "empty_clusters_repaired": list_of(whole()),
    "converged": YES_OR_NO,
    "settled": YES_OR_NO,
    "timed_out": YES_OR_NO,
    "seconds": list_of(NUMBER),
    "since_start": OBJECT,
    "whiten": YES_OR_NO,
    "features_hash": TEXT,
    "metric": TEXT,
    "carried": list_of(list_of(NUMBER, 2, 2)),
    "sums_of": list_of(list_of(NUMBER, 2, 2)),
    "sums_sha256": HASHES,
}
_STEPS: dict[str, Value] = {"normalize": YES_OR_NO, "num_components": whole(), "unit_output": YES_OR_NO}


def require_codebook_values(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks types and ranges of what the manifest of a codebook says.

    Raises:
        ArtifactError: naming what is not allowed.
    """
    require_values(folder, manifest, _VALUES, _MORE_VALUES, _REMEDY)
    require_values(folder, manifest["preprocessing"], _STEPS, {"product": one_of(EXACT, IN_FLOAT32)}, _REMEDY)


def _read(folder: Path, name: str, sha256: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    with with_remedy(_REMEDY):
        array = artifacts.read_array(folder / name, shape=shape, dtype=dtype)
        require_unchanged(folder / name, sha256)
    return array
