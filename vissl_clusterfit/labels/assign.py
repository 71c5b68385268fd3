"""``PseudoLabels``: the cluster of every sample, addressed by data-set index, as an artefact on disk."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.sources import chunk_rows
from vissl_clusterfit.errors import ArtifactError, ConfigError, DataError, problem
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.sample_names import NAMES_FILE
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels import balanced
from vissl_clusterfit.labels.balanced_labels import BalancedAssignment, FirstChoices
from vissl_clusterfit.labels.files import SIZES_FILE, LabelFiles
from vissl_clusterfit.labels.pseudo_labels import KIND, PseudoLabels, label_inputs
from vissl_clusterfit.labels.rounds import in_rounds
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.search.protocol import Search
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import remove_leftovers

logger = logging.getLogger(__name__)

_PRICES_FILE = "prices.npy"


def label_store(
    store: FeatureStore,
    codebook: Codebook,
    device: str,
    folder: Path,
    *,
    max_distance: float | None = None,
    top_clusters: int = 1,
    max_cluster_size: float = 0.0,
) -> PseudoLabels:
    """Gives every sample of a store the label of its nearest centroid, in memory that does not grow with N.

    All processes of the run call this together: each finds the nearest centroids of its part, and the primary one
    writes labels in the order of the samples. They are the same to the byte for any number of processes and threads.
    Labelling that was stopped resumes where it was, at most a million samples back, on as many processes as there are,
    and ends with the same labels.

    Args:
        store: the features: those of the clustering, or of other data.
        codebook: the centroids.
        device: "cpu" or "cuda".
        folder: of the labels.
        max_distance: samples whose squared distance is larger stay without label; None labels all.
        top_clusters: T; with more than 1 the T nearest clusters are kept, too.
        max_cluster_size: how much larger than the mean size a cluster may be, at least 1, as ``labels/balanced.py``
            does it; 0 for no bound. Not together with ``max_distance``.

    Raises:
        ConfigError: T is larger than the number of clusters.
        ArtifactError: the features do not have the codebook's dimension.
        DataError: a feature is NaN or infinite.
    """
    if max_cluster_size and max_distance is not None:
        raise ValueError(
            "max_cluster_size bounds the clusters of labels that all samples have: leave max_distance out."
        )
    if store.dim != codebook.input_dim:
        raise ArtifactError(
            f"The codebook in {codebook.folder} labels features of dimension {codebook.input_dim}, found "
            f"{store.dim}. Extract them with the same teacher, layer and pooling."
        )
    if top_clusters > codebook.num_clusters:
        allowed = f"1 to {codebook.num_clusters}, the clusters of the codebook in {codebook.folder}"
        raise ConfigError(problem("config.CLUSTERFIT.TOP_CLUSTERS", found=top_clusters, allowed=allowed))
    inputs = label_inputs(store.inputs, codebook.manifest["inputs"], max_distance, top_clusters, max_cluster_size)
    run = artifacts.content_hash([inputs, store.content_hash, codebook.content_hash])
    search = codebook.search(device)
    with contextlib.ExitStack() as stack:
        files: list[LabelFiles] = []  # of the primary process

        def begin() -> int:
            artifacts.remove_manifest(folder)
            files.append(stack.enter_context(LabelFiles(folder, store.num_samples, run, top_clusters)))
            return files[0].num_done

        num_done = distributed.on_primary(begin)
        bounded = None
        if max_cluster_size:
            bounded = balanced.solve(store, codebook, device, max_cluster_size, folder / _PRICES_FILE, run)
        rules = AssignmentOptions(codebook.num_clusters, max_distance, top_clusters, bounded)

        def find(start: int) -> NearestCentroids:
            rows = store.read(start, min(start + chunk_rows(store.dim), store.num_samples))
            return nearest_centroids(rows, start, store.unreadable, search, rules)

        # Where clusters are bounded, a label depends on those before it: what is written is gone through again.
        first = 0 if bounded else num_done
        progress = stack.enter_context(Progress("Labelling", store.num_samples, "samples", done=first))

        def keep(found: NearestCentroids) -> None:
            start, stop = found.start, found.start + len(found.readable)
            progress.set(stop)
            of_rows = assign_rows(found, rules, lambda: store.read(start, stop)[found.readable])
            if stop > num_done:
                files[0].append(*of_rows)

        in_rounds(range(first, store.num_samples, chunk_rows(store.dim)), find, keep, search.num_threads)

        def finish() -> None:
            _finish(store, codebook, files[0], folder, inputs, bounded)

        distributed.on_primary(finish)
    return PseudoLabels.open(folder)


def _finish(
    store: FeatureStore,
    codebook: Codebook,
    files: LabelFiles,
    folder: Path,
    inputs: Mapping[str, Any],
    bounded: BalancedAssignment | None,
) -> None:
    """Makes an artefact of labels that are written."""
    files.complete()
    sizes, num_far = files.count(codebook.num_clusters)
    artifacts.write_array(folder / SIZES_FILE, sizes)
    artifacts.write_array(folder / SAMPLES_FILE, store.samples)
    if not (named := store.write_names(folder)):
        (folder / NAMES_FILE).unlink(missing_ok=True)  # of labels that were here before
    facts = _facts(store, sizes, num_far)
    if bounded is not None:
        facts["bounded"] = bounded.facts()
    facts |= {"features_hash": store.content_hash, "codebook_hash": codebook.content_hash}
    names = (*files.names, SIZES_FILE, SAMPLES_FILE, *([NAMES_FILE] if named else []))
    facts["sha256"] = {name: artifacts.file_sha256(folder / name) for name in names}
    files.require_own()  # what was counted and hashed
    artifacts.write_manifest(folder, KIND, inputs, facts)
    files.remove_progress()
    (folder / _PRICES_FILE).unlink(missing_ok=True)
    remove_leftovers(folder)
    _report(facts)


def _facts(store: FeatureStore, sizes: np.ndarray, num_far: int) -> dict[str, Any]:
    num_labelled = int(sizes.sum())
    return {
        "num_samples": store.num_samples,
        "num_clusters": [len(sizes)],
        "num_empty_clusters": [int((sizes == 0).sum())],
        # The largest cluster over the mean one: 1 when all have the same size, K when one holds all samples.
        "imbalance": [float(sizes.max() * len(sizes) / num_labelled) if num_labelled else 0.0],
        "num_unlabelled": len(store.unreadable) + num_far,
        "num_unreadable": len(store.unreadable),
        "unreadable": store.manifest["unreadable"],
        # Farther from every centroid than max_distance: data unlike those that were clustered.
        "num_too_far": num_far,
        "drift": num_far / max(1, store.num_samples - len(store.unreadable)),
    }


def _report(facts: Mapping[str, Any]) -> None:
    logger.info(
        "%d of %d samples are labelled; %d could not be read and %d are too far from every centroid (drift %.1f %%).",
        facts["num_samples"] - facts["num_unlabelled"],
        facts["num_samples"],
        facts["num_unreadable"],
        facts["num_too_far"],
        100 * facts["drift"],
    )
    logger.info(
        "The largest of %d clusters is %.1f times the mean one; %d are empty.",
        facts["num_clusters"][0],
        facts["imbalance"][0],
        facts["num_empty_clusters"][0],
    )


UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class AssignmentOptions:
    """How labels are given.

    Attributes:
        num_clusters: K.
        max_distance: samples whose squared distance is larger stay without label; None labels all.
        top_clusters: T.
        bounded: gives labels within a bound on the size of clusters; None for the nearest ones.
    """

    num_clusters: int
    max_distance: float | None = None
    top_clusters: int = 1
    bounded: BalancedAssignment | None = None


@dataclass(frozen=True, eq=False)
class NearestCentroids:
    """The nearest clusters of those of a few samples that have features.

    Attributes:
        start: the first one's index.
        readable: (n,) bool, which have features: m of them.
        clusters: (m, max(2, T)) int64, nearest first.
        distances: to them, squared, float32.
        choices: of the m, where the size of clusters is bounded.
    """

    start: int
    readable: np.ndarray
    clusters: np.ndarray
    distances: np.ndarray
    choices: FirstChoices | None = None

    @property
    def margins(self) -> np.ndarray:
        """(m,) float32, how much farther the second cluster is; infinite where there is none."""
        if self.clusters.shape[1] == 1:
            return np.full(len(self.clusters), np.inf, dtype=np.float32)
        # Of two centroids that are equally near to within float32 rounding, faiss may give either first.
        return np.maximum(self.distances[:, 1] - self.distances[:, 0], 0)


def nearest_centroids(
    rows_nD: np.ndarray, start: int, unreadable: np.ndarray, search: Search, rules: AssignmentOptions
) -> NearestCentroids:
    """Finds the nearest clusters of a few samples; what takes the time of labelling, and depends on no other sample.

    Args:
        rows_nD: their features, (n, D).
        start: the first one's index.
        unreadable: the samples without features, ascending.
        search: of features.
        rules: how labels will be given.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    low, high = np.searchsorted(unreadable, [start, start + len(rows_nD)])
    readable = np.ones(len(rows_nD), dtype=bool)
    readable[unreadable[low:high] - start] = False
    _require_finite(rows_nD, start)
    count = min(max(2, rules.top_clusters), rules.num_clusters)
    found = NearestCentroids(start, readable, *search.nearest(rows_nD[readable], count))
    if rules.bounded is None:
        return found
    samples, nearest, distances = start + np.flatnonzero(readable), found.clusters[:, 0], found.distances[:, 0]
    return replace(found, choices=rules.bounded.choose(samples, rows_nD[readable], nearest, distances, found.margins))


def assign_rows(
    found: NearestCentroids, rules: AssignmentOptions, rows_of: Callable[[], np.ndarray] | None = None
) -> tuple[np.ndarray, ...]:
    """What is kept of a few samples.

    Args:
        found: their nearest clusters.
        rules: how labels are given.
        rows_of: gives the features (m, D) of those that have some; needed where the size of clusters is bounded.

    Returns:
        Labels, distances and margins (n,), -1 in all three for samples without features; with T > 1, nearest clusters
        and distances (n, T), too, -1 in both for samples without label.
    """
    num_rows, readable, clusters, near = len(found.readable), found.readable, found.clusters, found.distances
    labels = np.full(num_rows, UNLABELLED, dtype=np.int64)
    distances, margins = (np.full(num_rows, UNLABELLED, dtype=np.float32) for _ in range(2))
    if rules.bounded is not None and found.choices is not None and rows_of is not None:
        labels[readable], distances[readable], margins[readable] = rules.bounded.assign(found.choices, rows_of)
    else:
        labels[readable], distances[readable], margins[readable] = clusters[:, 0], near[:, 0], found.margins
    if rules.max_distance is not None:
        labels[distances > rules.max_distance] = UNLABELLED
    if rules.top_clusters == 1:
        return labels, distances, margins
    shape = (num_rows, rules.top_clusters)
    top, top_distances = (np.full(shape, UNLABELLED, dtype) for dtype in (np.int64, np.float32))
    top[readable], top_distances[readable] = clusters[:, : rules.top_clusters], near[:, : rules.top_clusters]
    top[labels < 0] = top_distances[labels < 0] = UNLABELLED
    return labels, distances, margins, top, top_distances


def _require_finite(rows_nD: np.ndarray, start: int) -> None:
    if rows_nD.size and not (np.isfinite(rows_nD.min()) and np.isfinite(rows_nD.max())):
        first = start + int(np.argmin(np.isfinite(rows_nD).all(axis=1)))
        raise DataError(
            f"The features of sample {first} are NaN or infinite. Extract the features again with a teacher that gives "
            "finite ones."
        )
