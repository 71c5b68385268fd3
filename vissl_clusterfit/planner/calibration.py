"""How fast this machine clusters, from a second of the same work, and what memory and disk it has.

The work is done on a few thousand vectors with as many centroids as fit into that second. Times are taken to be linear
in K: they are, but for what is done once per vector, which weighs less the more centroids there are.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.projection import add_products
from vissl_clusterfit.clustering.reproducible_sums import Accumulator
from vissl_clusterfit.clustering.sources import chunk_rows
from vissl_clusterfit.errors import cannot_write
from vissl_clusterfit.planner.plan import Machine, Rates
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.search.backends import FAISS, search_factory
from vissl_clusterfit.search.protocol import Rows, Search
from vissl_clusterfit.search.threads import one_thread
from vissl_clusterfit.search.tile import tile_size
from vissl_clusterfit.search.torch_search import fast_product_type
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.remote import as_remote

# Numbers of the centroids that are searched, and vectors of which each is a mean.
_CENTROID_VALUES = 1 << 21
_ROWS_PER_CENTROID = 4
# As few that what a call takes anyway, on a machine that is disturbed, is not taken for the time of rows.
_FEWEST_ROWS = 512
# Bytes that are written and read again, to see how fast a disk is.
_FILE_BYTES = 1 << 25


def calibrate(
    work: Workload,
    *,
    take: Callable[[int], np.ndarray] | None = None,
    folder: Path | None = None,
    seconds: float = 1.0,
    shared_by: int = 1,
    network: float = 1.25e9,
) -> Rates:
    """Measures the rates of a clustering on this machine, in this process, with its threads.

    Args:
        work: the clustering.
        take: reads so many features, as they are on disk (n, D) float32; they are made up, in groups, if None.
        folder: where a file is written and read to see how fast the disk is. If None, the time of ``take`` counts for
            reading, and none for what is written.
        seconds: about how long it may take, not counting what has to be done at least once.
        shared_by: processes that will share the processors with which this one measures.
        network: bytes a second between processes.
    """
    part = seconds / 8
    num_rows = min(work.num_vectors, chunk_rows(work.input_dim))
    num_centroids = max(1, min(work.num_clusters, num_rows // _ROWS_PER_CENTROID, _CENTROID_VALUES // work.dim))
    begun = time.perf_counter()
    raw = _made_up(num_rows, work.input_dim, num_centroids) if take is None else take(num_rows)
    read, keep = (time.perf_counter() - begun) / len(raw), 0.0
    if take is None:
        read = 0.0
    if folder is not None:
        per_byte, keep = disk_seconds_per_byte(folder)
        read = per_byte * work.input_dim * work.feature_bytes
    steps = _any_preprocessing(work)
    rows = steps.apply(raw)
    factory = search_factory(work.backend, work.device)
    drawn = rows[np.linspace(0, len(rows) - 1, num_centroids).astype(np.int64)]
    labels = factory(drawn).labels(rows)
    # Means are closer to each other than vectors, so that more of them are to be held against each other.
    centroids = _means(rows, labels, drawn)
    search = factory(centroids)
    sums = Accumulator(num_centroids, work.dim, work.extent, work.num_vectors, search.card)
    added, to = (torch.from_numpy(values).to(search.card or "cpu") for values in (rows, labels))
    with one_thread():  # as in a pass, where each thread does all operations of a chunk
        update = _update(factory, centroids, work) / num_centroids
        add = _per_row(lambda some: sums.add(some, to[: len(some)]), added, part)
    return Rates(
        label=_per_row(_labels(search, work), rows, 2 * part) / num_centroids,
        nearest=_per_row(lambda some: search.nearest(some, min(2, num_centroids)), rows, 2 * part) / num_centroids,
        add=add,
        read=read,
        prepare=_per_row(steps.apply, raw, part),
        covariance=_per_row(_covariance, raw, part) if work.num_components else 0.0,
        update=update,
        keep=keep * 4 * work.dim,
        shared_by=shared_by,
        network=network,
    )


def this_machine(folder: Path | None = None, device: str = "cpu") -> Machine:
    """What memory is available, what is free on the file system of a folder, and on the GPU."""
    memory = None
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                memory = int(line.split()[1]) * 1024
    except OSError:
        pass
    disk = None
    if folder is not None and not as_remote(folder):
        disk = shutil.disk_usage(_existing(folder)).free
    card = torch.cuda.mem_get_info()[0] if device != "cpu" and torch.cuda.is_available() else None
    return Machine(memory, disk, card)


def disk_seconds_per_byte(folder: Path) -> tuple[float, float]:
    """Seconds to read a byte in a folder, and to write one of an artefact, with its hash.

    Raises:
        ArtifactError: nothing can be written there.
    """
    if as_remote(folder):
        return 0.0, 0.0
    values = np.random.default_rng(0).integers(0, 256, _FILE_BYTES, dtype=np.uint8)
    try:
        with tempfile.TemporaryDirectory(dir=_existing(folder), prefix=".calibration-") as own:
            path = Path(own) / "rows.npy"
            begun = time.perf_counter()
            artifacts.write_array(path, values)
            written = time.perf_counter() - begun
            with open(path, "rb", buffering=0) as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # or it would be read from memory
                begun = time.perf_counter()
                while file.read(1 << 20):
                    pass
                return (time.perf_counter() - begun) / _FILE_BYTES, written / _FILE_BYTES
    except OSError as error:
        raise cannot_write(folder, error) from error


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _made_up(num_rows: int, dim: int, num_groups: int) -> np.ndarray:
    """Vectors in groups, so that most have one centroid that is clearly the nearest, and some have not."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((num_rows, dim), dtype=np.float32)
    middles = rng.standard_normal((max(1, num_groups // 2), dim), dtype=np.float32)
    rows += middles[rng.integers(0, len(middles), num_rows)]
    return rows


def _any_preprocessing(work: Workload) -> Preprocessing:
    if not work.num_components:
        return Preprocessing(work.normalize, unit_output=work.cosine)
    components = np.random.default_rng(1).standard_normal((work.dim, work.input_dim), dtype=np.float32)
    mean = np.zeros(work.input_dim, dtype=np.float32)
    return Preprocessing(work.normalize, mean, components / work.input_dim**0.5, work.cosine)


def _means(rows: np.ndarray, labels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The means of the vectors of each cluster and of what its centroid was before."""
    sums, counts = drawn.copy(), np.ones(len(drawn), dtype=np.float32)
    np.add.at(sums, labels, rows)
    np.add.at(counts, labels, 1)
    return sums / counts[:, None]


def _covariance(rows: np.ndarray) -> None:
    add_products(np.zeros((rows.shape[1], rows.shape[1])), rows.astype(np.float64))


def _labels(search: Search, work: Workload) -> Callable[[np.ndarray], object]:
    """What an iteration does; with many centroids, the parts of a search are put together by distance."""
    if work.backend != FAISS and tile_size(work.num_clusters) < work.num_clusters:
        return search.nearest
    return search.labels


def _update(factory: Callable[[np.ndarray], Search], centroids: np.ndarray, work: Workload) -> float:
    """Seconds of what an iteration does once: a new search, and means from sums."""

    def update() -> None:
        factory(centroids)
        sums = Accumulator(len(centroids), work.dim, work.extent, work.num_vectors).total(0.0)
        sums.counts[:] = 1
        sums.objective(centroids)
        (sums.sums / sums.counts[:, None]).astype(np.float32)

    return _least_seconds(update)


def _least_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """What ``work`` takes when nothing else runs: other work may disturb one of a few times, hardly all."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def product_bytes(work: Workload) -> int:
    """Of a number in the matrix product that searches on this machine."""
    device = "cpu" if work.device == "cpu" else "cuda"
    return 4 if work.backend == FAISS else fast_product_type(device).itemsize


def _per_row(work: Callable[[Rows], object], rows: Rows, seconds: float) -> float:
    """Seconds that ``work`` takes of one row, with as many rows as it does in the time, or all."""
    some = rows[:_FEWEST_ROWS]
    work(some)  # what is done at the first call only
    taken = _least_seconds(functools.partial(work, some))
    while len(some) < len(rows) and 9 * taken < seconds:
        some = rows[: min(len(rows), len(some) * max(2, int(seconds / 6 / max(taken, 1e-6))))]
        taken = _least_seconds(functools.partial(work, some))
    return taken / len(some)
