"""The stages of the core as processes do them that tests kill: small, slow where asked, and dying at a given write."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretend_card import pretended_card
from torch import nn

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.fit import fit_codebook, fit_codebooks
from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import EncodingSettings, FeatureSettings
from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.features import extract as extraction
from vissl_clusterfit.features.sample_list import dataset_inputs, hash_samples
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels import assign, files, rounds
from vissl_clusterfit.storage import artifacts

#: How a process ends that stops with a message.
REFUSED = 3
COUNT, BATCH_SIZE, SHARD_SIZE = 45, 3, 8
#: Of a part of the rows that are labelled.
MAX_DISTANCE = 12.0


class Numbers(torch.utils.data.Dataset):
    """Sample i is a 1 x 2 x 2 image of i; some cannot be read."""

    def __init__(self, count: int, unreadable: frozenset[int] = frozenset()) -> None:
        self.count, self.unreadable = count, unreadable

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return torch.full((1, 2, 2), float(index)), "truncated" if index in self.unreadable else ""

    @property
    def samples(self) -> np.ndarray:
        return hash_samples(map(self.name_of, range(self.count)))

    def name_of(self, index: int) -> str:
        return f"image{index}"


class OrphansNumbers(Numbers):
    """What a process reads that does not come to read before it has lost its parent."""

    def __init__(self, numbers: Numbers, orphan) -> None:
        super().__init__(numbers.count, numbers.unreadable)
        self._parent, self._orphan = os.getpid(), orphan
        os.register_at_fork(after_in_child=self._wait)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._wait()

    def _wait(self) -> None:
        self._orphan.send(os.getpid())
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(self._parent, 0)
                time.sleep(0.01)


def encode(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, 2, 2) to (B, 2)."""
    return torch.stack([images.mean(dim=(1, 2, 3)), -images.mean(dim=(1, 2, 3))], dim=1)


def convolutions(compute: Compute, kind: str = "cpu") -> Callable[[torch.Tensor], torch.Tensor]:
    """(B, 1, 2, 2) to (B, 16), by convolutions with norms that compute so."""
    device = torch.device(kind)
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    network = nn.Sequential(*layers).eval().requires_grad_(False).to(device)
    return prepared(lambda images: network(images).float().mean(dim=(2, 3)), network, device, compute)


def told(work: Callable, said: Path, *args: object, **options: object) -> None:
    """Work that ends with one message, in a file, and a code of its own, where the user can mend what is wrong."""
    try:
        work(*args, **options)
    except ClusterFitError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        said.write_text(str(error))
        os._exit(REFUSED)


def die_at_write(number: int, moved: bool) -> None:
    """Lets this process be killed when it writes its n-th file: half-way, or when it has been moved into place."""
    write_file, written = artifacts.write_file, itertools.count()

    def write_and_die(path: Path, write: Callable, **options: Any) -> bool:
        if next(written) != number:
            return write_file(path, write, **options)
        if not moved:

            def half(file) -> None:
                file.write(b"half")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

            write = half
        write_file(path, write, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    artifacts.write_file = write_and_die


def limit_file_size(num_bytes: int) -> None:
    """No file of this process grows beyond; the kernel then says what it says of a full disk, in other words."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def prepare(dies_at: tuple[int, bool] | None = None, max_file_bytes: int | None = None) -> None:
    torch.set_num_threads(1)
    # For those that read images: a server would have to be started for them.
    multiprocessing.set_start_method("fork", force=True)
    if dies_at is not None:
        die_at_write(*dies_at)
    if max_file_bytes is not None:
        limit_file_size(max_file_bytes)


def join(rank: int, world_size: int, rendezvous: Path, backend: str = "gloo") -> None:
    """Makes this process one of a run: its number, how many there are, a file to meet at, and how they talk."""
    torch.distributed.init_process_group(backend, f"file://{rendezvous}", rank=rank, world_size=world_size)


def extract(
    folder: Path,
    count: int,
    *,
    begun=None,
    log: Path | None = None,
    pause_s: float = 0.0,
    num_workers: int = 0,
    shard_size: int = SHARD_SIZE,
    loses_worker: bool = False,
    start_method: str = "fork",
    orphan=None,
    group: tuple[int, int, Path] | None = None,
    compute: Compute | None = None,
    **options: Any,
) -> None:
    """Extracts the features of ``Numbers``; every tenth cannot be read.

    Args:
        begun: an event that is set when there is work to do.
        log: a file that gets the indices of all samples that are encoded.
        pause_s: the time that a batch takes.
        loses_worker: one of the processes that read images dies.
        start_method: of these processes.
        orphan: a connection. Each of these processes says its number there as soon as it is one, and continues when the
            one that it reads for has died.
        group: what ``join`` takes, for several processes of one run.
        compute: how a convolutional network gives the features; their means do if None.
    """
    prepare(**options)
    multiprocessing.set_start_method(start_method, force=True)
    network = encode if compute is None else convolutions(compute)
    images = Numbers(count, frozenset(range(3, count, 10)))
    if orphan is not None:
        images = OrphansNumbers(images, orphan)
    extraction._LOOK_AGAIN_S = 0.05

    def encode_slowly(pixels: torch.Tensor) -> torch.Tensor:
        if log is not None:
            with open(log, "a") as file:  # a line is written at once, and appended whoever writes
                file.write("".join(f"{int(image.flatten()[0])} " for image in pixels))
        if loses_worker:
            multiprocessing.active_children()[0].kill()
        time.sleep(pause_s)
        return network(pixels)

    def make_encoder() -> Callable[[torch.Tensor], torch.Tensor]:
        if begun is not None:
            begun.set()
        return encode_slowly

    if group is not None:
        join(*group)
    settings = EncodingSettings(batch_size=BATCH_SIZE, shard_size=shard_size, max_unreadable=0.5)
    inputs = {"dataset": dataset_inputs(images.samples), **(compute.inputs() if compute else {})}
    extraction.extract_features(images, make_encoder, folder, inputs, settings, num_workers=num_workers)


#: Clusterings of ``rows``: plain, and with all that goes into the state.
CLUSTERINGS: dict[str, dict[str, Any]] = {
    "l2": {},
    "cosine": {"metric": "cosine"},
    "whitened": {"features": FeatureSettings(dimensionality_reduction=5, whiten=True)},
    "two levels": {"num_clusters": 40, "num_coarse_clusters": 5},
    "in parts": {"num_iter": 14},
}
#: Those that differ in how the features are read and the centroids found.
OTHER_CLUSTERINGS: dict[str, dict[str, Any]] = {
    "raw": {"features": FeatureSettings(normalize=False)},
    "faiss": {"cluster_backend": "faiss"},
    "random, all features": {"start": "random", "growing_sample": False},
    "a part": {"data_limit": 1300},
    "hierarchical": {"start": "hierarchical", "num_clusters": 40, "num_iter": 4},
    "hierarchical, cosine": {"start": "hierarchical", "metric": "cosine", "growing_sample": False},
    "two levels, cosine": {"num_clusters": 40, "num_coarse_clusters": 5, "metric": "cosine", "num_iter": 4},
    "out of time": {"time_limit": 1e-6},
    "settled": {"tolerance": 0.05, "num_iter": 40},
    "around points": {"num_clusters": 520, "num_iter": 14},
    "more clusters than distinct features": {"num_clusters": 60, "start": "random"},
}
#: That of features with more dimensions than the others have.
WIDE: dict[str, dict[str, Any]] = {
    "wide": {"num_clusters": 30, "features": FeatureSettings(dimensionality_reduction=40, whiten=True)}
}


def cluster(
    store: Path,
    folder: Path,
    kind: str = "l2",
    num_iter: int = 6,
    begun=None,
    pause_s: float = 0.0,
    group: tuple[int, int, Path] | None = None,
    also: Sequence[int] = (),
    device: str = "cpu",
    **options: Any,
) -> None:
    """Clusters a store.

    Args:
        kind: of the clusterings above.
        begun: an event that is set at the first iteration.
        pause_s: the time that an iteration takes.
        group: what ``join`` takes, for several processes of one run, which read 256 samples at once.
        also: further K, in the same passes; ``folder`` is then that of the run.
        device: "cpu" or "cuda".
    """
    prepare(**options)
    if group is not None:
        sources._CHUNK_ROWS = 256
        join(*group)
    if begun is not None:
        accumulate = sources.ChunkedSource.accumulate

        def accumulate_slowly(self, search: sources.Search, share: sources.Fraction) -> sources.ClusterSums:
            begun.set()
            time.sleep(pause_s)
            return accumulate(self, search, share)

        sources.ChunkedSource.accumulate = accumulate_slowly
    changes = (CLUSTERINGS | OTHER_CLUSTERINGS | WIDE)[kind]
    settings = ClusterFitConfig(**{"num_clusters": 12, "num_iter": num_iter, **changes})
    if also:
        settings = dataclasses.replace(settings, output_dir=str(folder), also_num_clusters=also)
        fit_codebooks(FeatureStore.open(store), [settings, *settings.also], device)
    else:
        fit_codebook(FeatureStore.open(store), settings, device, folder)


def cluster_on_a_pretended_card(*args: Any, **options: Any) -> None:
    """Clusters a store where tensors say that they are on a card."""
    with pytest.MonkeyPatch.context() as patch, pretended_card(patch):
        cluster(*args, device="cuda", **options)


def cluster_on_a_card_of_its_own(*args: Any, group: tuple[int, int, Path]) -> None:
    """Clusters a store on the card that has the number of this process; they talk by NCCL."""
    torch.cuda.set_device(group[0])
    cluster(*args, device="cuda", group=(*group, "nccl"))


def label(
    store: Path,
    codebook: Path,
    folder: Path,
    *,
    max_distance: float | None = None,
    max_cluster_size: float = 0.0,
    begun=None,
    may_continue=None,
    pause_s: float = 0.0,
    top_clusters: int = 1,
    group: tuple[int, int, Path] | None = None,
    **options: Any,
) -> None:
    """Labels a store, 256 samples at once, with a mark after every 500.

    Args:
        begun: an event that is set when the first labels are written.
        may_continue: an event to wait for then.
        pause_s: the time that a chunk takes.
        group: what ``join`` takes, for several processes of one run, which take two chunks each in a round.
    """
    prepare(**options)
    sources._CHUNK_ROWS, files._ROWS_BETWEEN_MARKS = 256, 500
    if group is not None:
        rounds._ITEMS = 2
        join(*group)
    append = files.LabelFiles.append

    def append_slowly(self, *arrays: np.ndarray) -> None:
        append(self, *arrays)
        if begun is not None:
            begun.set()
        if may_continue is not None:
            may_continue.wait(60)
        time.sleep(pause_s)

    files.LabelFiles.append = append_slowly
    opened = FeatureStore.open(store), Codebook.open(codebook), "cpu", folder
    rules = {"max_distance": max_distance, "max_cluster_size": max_cluster_size, "top_clusters": top_clusters}
    assign.label_store(*opened, **rules)
