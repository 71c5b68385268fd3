"""A sample of labelled data that is balanced over clusters, and over levels of clusters.

Of groups of very different sizes each gives as many as any other, or all that it has: the level of water poured over
them. With levels, first the coarsest clusters are balanced, then the clusters within each, as in the curation of web
images by hierarchical k-means (Vo et al., "Automatic Data Curation for Self-Supervised Learning", 2024, section 3.2).

Legend: N samples, K clusters, G groups of one level.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.kmeans import KMEANS_PLUSPLUS, kmeans
from vissl_clusterfit.clustering.sampling import uniform
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.labels.export import as_text, require_free
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.search.backends import TORCH, search_factory
from vissl_clusterfit.storage.artifacts import write_array
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.paths import artifact_path

_ITERATIONS = 30


def draw_balanced(
    labels: PseudoLabels | str | Path,
    count: int,
    *,
    codebook: Codebook | str | Path | None = None,
    levels: Sequence[int] = (),
    seed: int = 0,
    path: str | Path | None = None,
) -> np.ndarray:
    """Draws samples without replacement, balanced over their clusters; the same ones for the same seed.

    Samples without a label are never drawn. It takes 40 bytes of memory for each sample.

    Args:
        labels: or their folder; of one codebook.
        count: how many samples.
        codebook: of these labels, or its folder: needed for levels, and where it has two, these are balanced.
        levels: numbers of coarser clusters, the finest first: the centroids are clustered into so many, theirs again.
        seed: 0 or more.
        path: where the list is kept, too: ``.npy`` for indices, ``.csv`` for index, label, and name where there are
            names. What is there already is refused.

    Returns:
        The data-set indices, ascending, (count,) int64.

    Raises:
        ConfigError: ``count`` or ``levels`` cannot be.
        DataError: labels of several codebooks, a codebook of others, or another end of ``path``.
        ArtifactError: there is something at ``path``, or it cannot be written.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import draw_balanced, make_codebook, make_labels, import_features
        >>> points = np.concatenate([np.zeros(90), np.full(10, 9.0)]).astype(np.float32)[:, None]
        >>> features = import_features(points, "run/features")
        >>> codebook = make_codebook(features, "run/codebook", num_clusters=2, normalize=False)
        >>> labels = make_labels(features, codebook, "run/labels")
        >>> drawn = draw_balanced(labels, 16)
        >>> int((drawn < 90).sum()), int((drawn >= 90).sum())
        (8, 8)
    """
    own = labels if isinstance(labels, PseudoLabels) else PseudoLabels.open(artifact_path(str(labels), "labels"))
    if len(own.num_clusters) > 1:
        found = f"labels of {len(own.num_clusters)} codebooks in {own.folder}"
        raise DataError(problem("labels", found=found, allowed="those of one codebook"))
    _require_labelled(own, count, "count")
    goal = None if path is None else Path(path)
    if goal is not None:
        if goal.suffix not in (".npy", ".csv"):
            raise DataError(problem("path", found=str(path), allowed="one that ends in .npy or .csv"))
        require_free(goal)
    parents = _parents(own, codebook, levels, seed)
    drawn = _balanced(own, parents, count, seed)
    if goal is not None:
        _write(goal, drawn, own)
    return drawn


def draw_of_epoch(labels: PseudoLabels, count: int, parents: Sequence[np.ndarray], seed: int, epoch: int) -> np.ndarray:
    """The samples of an epoch of a training, drawn as :func:`draw_balanced` does, others in each epoch.

    Clusters that have no more than their share give all their samples in every epoch, larger ones some others each
    time. It takes 40 bytes of memory for each sample.

    Args:
        labels: of one codebook.
        count: how many samples.
        parents: as :func:`levels_of` gives them.
        seed: of the training.
        epoch: its number, 0 or more.

    Returns:
        The data-set indices, ascending, (count,) int64.

    Raises:
        ConfigError: fewer samples have a label.
    """
    _require_labelled(labels, count, "config.CLUSTERFIT.BALANCED_SAMPLES")
    own_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return _balanced(labels, parents, count, own_seed)


def levels_of(labels: PseudoLabels, codebook: str | Path) -> list[np.ndarray]:
    """The levels of labels whose clusters were made on two of them, from their codebook; none for other labels.

    Raises:
        ArtifactError: there are levels, and the codebook is not there.
        DataError: it is another one.
    """
    made_with = labels.inputs.get("codebook", {}).get("settings", {})
    return _parents(labels, codebook, (), 0) if "num_coarse_clusters" in made_with else []


def _require_labelled(labels: PseudoLabels, count: int, name: str) -> None:
    labelled = labels.num_samples - labels.num_unlabelled
    if not 0 <= count <= labelled:
        raise ConfigError(problem(name, found=count, allowed=f"0 to {labelled}, the samples with a label"))


def _balanced(labels: PseudoLabels, parents: Sequence[np.ndarray], count: int, seed: int) -> np.ndarray:
    of_each = np.array(labels.labels)
    sizes = np.bincount(of_each[of_each >= 0], minlength=labels.num_clusters[0])
    return _drawn(of_each, shares_over_levels(sizes, parents, count, seed), seed)


def even_shares(sizes: np.ndarray, total: int, keys: np.ndarray) -> np.ndarray:
    """How many each of some groups gives: all the same number, or all that it has; the rest one each, by least key.

    Args:
        sizes: (G,) int64.
        total: at most their sum.
        keys: (G,) float64.

    Returns:
        (G,) int64, ``total`` in all.
    """
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the highest level that takes no more than the total
        level = (low + high + 1) // 2
        low, high = (level, high) if int(np.minimum(sizes, level).sum()) <= total else (low, level - 1)
    given = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)
    given[more[np.argsort(keys[more], kind="stable")[: total - int(given.sum())]]] += 1
    return given


def shares_over_levels(sizes: np.ndarray, parents: Sequence[np.ndarray], total: int, seed: int) -> np.ndarray:
    """How many samples each cluster gives.

    Args:
        sizes: (K,) int64, of the clusters.
        parents: for each level, the finest first, which cluster of the next coarser one each of its clusters is in.
        total: at most the sum of the sizes.
        seed: of what is left over.

    Returns:
        (K,) int64, ``total`` in all.
    """
    of_level = [sizes]
    for number, parent in enumerate(parents, 1):
        count = len(parents[number]) if number < len(parents) else 0  # clusters of the coarser level, some empty
        of_level.append(np.bincount(parent, weights=of_level[-1], minlength=count).astype(np.int64))
    given = np.array([total])
    for number in range(len(parents), -1, -1):
        groups = of_level[number]
        keys = uniform(np.arange(len(groups)), stream=2 * (seed + 1) + 1 + number)
        parent = parents[number] if number < len(parents) else np.zeros(len(groups), dtype=np.int64)
        order = np.argsort(parent, kind="stable")
        below = np.split(order, np.cumsum(np.bincount(parent, minlength=len(given)))[:-1])
        coming = np.zeros(len(groups), dtype=np.int64)
        for amount, members in zip(given.tolist(), below, strict=True):
            coming[members] = even_shares(groups[members], amount, keys[members])
        given = coming
    return given


def _drawn(labels: np.ndarray, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Of each cluster as many samples as are wanted, by keys that belong to their indices."""
    members = np.flatnonzero(labels >= 0)
    order = members[np.lexsort((uniform(members, stream=2 * (seed + 1)), labels[members]))]
    first = np.searchsorted(labels[order], np.arange(len(wanted)))
    rank = np.arange(len(order)) - first[labels[order]]
    return np.sort(order[rank < wanted[labels[order]]])


def _parents(
    labels: PseudoLabels, codebook: Codebook | str | Path | None, levels: Sequence[int], seed: int
) -> list[np.ndarray]:
    if codebook is None:
        if levels:
            raise ConfigError(problem("levels", found=list(levels), allowed="none without the codebook of the labels"))
        return []
    made = codebook if isinstance(codebook, Codebook) else Codebook.open(artifact_path(str(codebook), "codebook"))
    if labels.codebook_hash != made.content_hash:
        raise DataError(problem("codebook", found=f"another one in {made.folder}", allowed="that of the labels"))
    if not levels:
        return [] if made.fine_counts is None else [np.repeat(np.arange(len(made.fine_counts)), made.fine_counts)]
    counts = [made.num_clusters, *levels]
    if any(not 1 <= coarser < finer for finer, coarser in itertools.pairwise(counts)):
        allowed = f"numbers that fall, less than {made.num_clusters} and from 1"
        raise ConfigError(problem("levels", found=list(levels), allowed=allowed))
    found, points, factory = [], made.centroids, search_factory(TORCH, "cpu")
    for number in levels:
        points_before = ArraySource(points)
        points = kmeans(points_before, number, _ITERATIONS, seed, factory, start=KMEANS_PLUSPLUS).centroids
        found.append(factory(points).labels(points_before.take(np.arange(points_before.num_vectors))))
    return found


def _write(path: Path, drawn: np.ndarray, labels: PseudoLabels) -> None:
    if path.suffix == ".npy":
        write_array(path, drawn)
        return
    names = labels.names

    def write(file: BinaryIO) -> None:
        with as_text(file) as text:
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(["index", "label", *([] if names is None else ["name"])])
            for index in drawn.tolist():
                rows.writerow([index, int(labels.labels[index]), *([] if names is None else [names[index]])])

    write_file(path, write)
