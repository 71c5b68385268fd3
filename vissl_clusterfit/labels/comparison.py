"""The quality of pseudo-labels on disk: of one set, and against another set or true classes of the same samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.quality import agreement, size_statistics, undecided_share
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.artifacts import ArtifactPaths

#: Samples whose second centroid is nearer than this share of the distance to the first are between two clusters.
TOLERANCE = 0.05


def label_quality(
    folder: Path, other: Path | None = None, true: Path | None = None, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """What there is to say of labels.

    Args:
        folder: of pseudo-labels.
        other: of pseudo-labels of the same samples, for example with another seed.
        true: a ``.npy`` file of true classes, (N,) integers, -1 where a sample has none.
        tolerance: see :func:`~vissl_clusterfit.labels.quality.undecided_share`.

    Returns:
        ``labels``: for each folder its sizes, and the objective of its clustering where its codebook is beside it;
        ``agreement``: for each pair what ``quality.Agreement`` has. All of it can be written as JSON.

    Raises:
        ArtifactError: a file or folder is not what it must be, or the samples are others.
        DataError: nothing can be compared.
    """
    sets = [_open(place) for place in (folder, other) if place is not None]
    for labels in sets[1:]:
        require_same_samples(sets[0], labels)
    pairs: list[tuple[Path, Path, np.ndarray, np.ndarray]] = [
        (sets[0].folder, labels.folder, sets[0].labels, labels.labels) for labels in sets[1:]
    ]
    if true is not None:
        classes = read_classes(true, sets[0].num_samples)
        pairs += [(labels.folder, true, labels.labels, classes) for labels in sets]
    return {
        "labels": [_of_one(labels, tolerance) for labels in sets],
        "agreement": [
            {"labels": str(first), "with": str(second), **dataclasses.asdict(agreement(own, others))}
            for first, second, own, others in pairs
        ],
    }


def _open(folder: Path) -> PseudoLabels:
    labels = PseudoLabels.open(folder)
    if len(labels.num_clusters) > 1:
        found = f"labels of {len(labels.num_clusters)} codebooks"
        raise ArtifactError(problem(str(folder), found=found, allowed="those of one codebook"))
    return labels


def require_same_samples(first: PseudoLabels, second: PseudoLabels) -> None:
    """Refuses two sets of labels that are of different data.

    Raises:
        ArtifactError: naming both, with their fingerprints.
    """
    fingerprints = [
        labels.inputs.get("features", {}).get("dataset", {}).get("fingerprint") for labels in (first, second)
    ]
    if None in fingerprints or fingerprints[0] != fingerprints[1] or first.num_samples != second.num_samples:
        raise ArtifactError(
            f"{first.folder} and {second.folder} are labels of different data: {first.num_samples} samples with the "
            f"fingerprint {fingerprints[0]}, and {second.num_samples} with {fingerprints[1]}. Compare labels of the "
            "same split of the same data."
        )


def read_classes(path: Path, num_samples: int) -> np.ndarray:
    """True classes from a ``.npy`` file, (N,) integers, mapped from disk.

    Raises:
        ArtifactError, DataError: it is no such file.
    """
    classes = artifacts.read_array(path, mmap=True)
    if classes.shape != (num_samples,) or classes.dtype.kind not in "iu":
        found, allowed = f"{classes.shape} of {classes.dtype}", f"({num_samples},) integers, one for each sample"
        raise DataError(problem(str(path), found=found, allowed=allowed))
    return classes


def _of_one(labels: PseudoLabels, tolerance: float) -> dict[str, Any]:
    undecided = None
    if labels.has_distances:
        undecided = undecided_share(labels.labels, labels.distances, labels.margins, tolerance)
    return {
        "folder": str(labels.folder),
        "num_samples": labels.num_samples,
        "num_unlabelled": labels.num_unlabelled,
        **dataclasses.asdict(size_statistics(labels.cluster_sizes)),
        "undecided_share": undecided,
        "objective": _objective(labels),
    }


def _objective(labels: PseudoLabels) -> list[float] | None:
    """That of each iteration, from the codebook of the same run, if it is the one that gave the labels."""
    run = labels.folder.parent.parent
    folder = ArtifactPaths(output_dir=run, features_dir=run).codebook
    try:
        codebook = Codebook.open(folder)
    except ArtifactError:
        return None
    return codebook.manifest.get("objective") if codebook.content_hash == labels.codebook_hash else None


def format_quality(quality: Mapping[str, Any]) -> str:
    """What :func:`label_quality` gives, as two tables: labels by measures, and pairs by measures."""
    columns: dict[str, str] = {
        "num_samples": "samples",
        "num_unlabelled": "unlabelled",
        "num_clusters": "clusters",
        "num_empty": "empty",
        "smallest": "smallest",
        "median": "median",
        "largest": "largest",
        "imbalance": "imbalance",
        "effective_clusters": "effective",
        "undecided_share": "undecided",
    }
    own = [["labels", *columns.values(), "iterations", "objective"]]
    for one in quality["labels"]:
        trace = one["objective"]
        iterations = [str(len(trace)), f"{trace[0]:.6g} to {trace[-1]:.6g}"] if trace else ["-", "-"]
        own.append([one["folder"], *(_cell(one[name]) for name in columns), *iterations])
    columns = {
        "num_compared": "compared",
        "num_left_out": "left out",
        "nmi": "NMI",
        "adjusted_rand": "adjusted Rand",
        "purity": "purity",
        "inverse_purity": "inverse purity",
    }
    pairs = [["labels", "with", *columns.values()]]
    pairs += [[pair["labels"], pair["with"], *(_cell(pair[name]) for name in columns)] for pair in quality["agreement"]]
    return "\n\n".join(_table(table) for table in (own, pairs) if len(table) > 1)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
