"""What clustering on two levels keeps on disk until it is done, so that it need not be in memory or done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vissl_clusterfit.clustering.kmeans import KMeansResult
from vissl_clusterfit.clustering.protocol import ChunkTask
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.search.protocol import Search
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.manifest_values import (
    HASHES,
    NUMBER,
    TEXT,
    YES_OR_NO,
    Value,
    list_of,
    require_values,
    whole,
)
from vissl_clusterfit.storage.unchanged import require_unchanged

_BLOCK_LABELS = 1 << 22


def write_coarse_labels(source: StoreSource, search: Search, folder: Path, rank: int) -> None:
    """Notes the coarse cluster of every vector that this process reads: int32, in the order of their positions.

    Args:
        source: the vectors, of which each process has its part.
        search: of the coarse centroids.
        folder: of the files, one per process.
        rank: of this process.
    """
    num_own = sum(len(positions) for positions in source.positions())

    def write(file: BinaryIO) -> None:
        header = {"descr": "<i4", "fortran_order": False, "shape": (num_own,)}
        np.lib.format.write_array_header_1_0(file, header)

        def keep(_: np.ndarray, __: np.ndarray, labels: np.ndarray) -> None:
            file.write(labels.astype("<i4").tobytes())

        source.over_chunks(ChunkTask(keep, search.labels, search.num_threads, card=search.card))

    write_file(_labels_file(folder, rank), write)


def _labels_file(folder: Path, rank: int) -> Path:
    return folder / f"coarse-labels-{rank:06d}.npy"


class CoarseLabels:
    """The coarse cluster of every position, read from disk a block at a time.

    Args:
        folder: of the files.
        world_size: how many processes wrote one.
    """

    def __init__(self, folder: Path, world_size: int) -> None:
        # Processes read neighbouring positions, in the order of their ranks.
        self._parts = [artifacts.read_array(_labels_file(folder, rank), mmap=True) for rank in range(world_size)]

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for part in self._parts:
            for low in range(0, len(part), _BLOCK_LABELS):
                yield start + low, np.asarray(part[low : low + _BLOCK_LABELS])
            start += len(part)

    def sizes(self, num_clusters: int) -> np.ndarray:
        """(C,) int64, the vectors of each coarse cluster."""
        sizes = np.zeros(num_clusters, dtype=np.int64)
        for _, labels in self._blocks():
            sizes += np.bincount(labels, minlength=num_clusters)
        return sizes

    def positions(self, clusters: Sequence[int], num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
        """The positions of some coarse clusters (n,) int64, ascending, and to which of them each belongs (n,)."""
        number = np.full(num_clusters, -1)
        number[list(clusters)] = np.arange(len(clusters))
        positions, members = [], []
        for start, labels in self._blocks():
            found = np.flatnonzero(number[labels] >= 0)
            positions.append(start + found)
            members.append(number[labels[found]])
        return np.concatenate(positions), np.concatenate(members)


_DONE: dict[str, Value] = {
    "run": TEXT,
    "sha256": HASHES,
    "num_points": whole(),
    **dict.fromkeys(("objective", "shares", "repaired"), list_of(NUMBER)),
    "num_still": whole(),
    "converged": YES_OR_NO,
}


class FineFiles:
    """The finished fine clusterings, each in two arrays and a JSON file, written last, which says that it is done.

    Args:
        folder: of the files.
        run: which clustering they are of.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run

    def save(self, index: int, state: KMeansResult) -> None:
        """Keeps the clustering of one coarse cluster."""
        arrays = {"centroids": state.centroids, "counts": state.counts}
        digests = {name: artifacts.write_array(self._array(index, name), array) for name, array in arrays.items()}
        done = {
            "run": self._run,
            "sha256": digests,
            "num_points": state.num_points,
            "objective": state.objective,
            "shares": state.shares,
            "repaired": state.repaired,
            "num_still": state.num_unchanged,
            "converged": state.converged,
            "settled": state.settled,
        }
        artifacts.write_json(self._done(index), done)

    def load(self, index: int, num_points: int, num_clusters: int) -> KMeansResult | None:
        """The clustering of one coarse cluster; None if it is not there, of another run, or damaged.

        Args:
            index: of the coarse cluster.
            num_points: its vectors.
            num_clusters: its fine clusters.
        """
        try:
            done = artifacts.read_json(self._done(index))
            if done["run"] != self._run or done["num_points"] != num_points:
                return None
            require_values(self._done(index), done, _DONE, {"settled": YES_OR_NO}, "It is made again.")
            for name in ("centroids", "counts"):
                require_unchanged(self._array(index, name), done["sha256"][name])
            centroids, counts = (artifacts.read_array(self._array(index, name)) for name in ("centroids", "counts"))
            objective, shares, repaired = (tuple(done[name]) for name in ("objective", "shares", "repaired"))
            num_unchanged, converged = int(done["num_still"]), bool(done["converged"])
            settled = bool(done.get("settled", False))  # which older ones don't say
        except (ArtifactError, KeyError):
            return None
        if len(centroids) != num_clusters:
            return None
        sees = (objective, shares, repaired)
        return KMeansResult(centroids, *sees, counts, num_points, num_unchanged, converged, settled=settled)

    def _array(self, index: int, name: str) -> Path:
        return self._folder / f"fine-{index:06d}-{name}.npy"

    def _done(self, index: int) -> Path:
        return self._folder / f"fine-{index:06d}.json"
