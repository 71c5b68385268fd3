"""The ordered sample list of a data set as eight bytes per sample: enough to say which samples differ."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts

#: Kept in every artefact that is addressed by data-set index.
SAMPLES_FILE = "samples.npy"
_SHOWN = 3
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_FILES_AT_ONCE, _NUM_THREADS = 1000, 16


def hash_samples(names: Iterable[str]) -> np.ndarray:
    """One hash per name, in order: uint64 (N,)."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return np.fromiter(digests, dtype="S8").view("<u8")


def names_and_sizes(files: Sequence[str], folder: str) -> Iterator[str]:
    """The names of files below a folder, wherever that lies: ``<path relative to it> <size in bytes>``, in order.

    A file that is not there, as behind a link that leads nowhere or to itself, has the size -1. Sizes are asked for in
    several threads, as the answers of a network file system take their time.
    """
    prefix = os.path.join(folder, "")  # cutting it off is seven times as fast as os.path.relpath

    def name(file: str) -> str:
        inside = file[len(prefix) :] if file.startswith(prefix) else os.path.relpath(file, folder)
        try:
            return f"{inside} {os.path.getsize(file)}"
        except ValueError:  # a NUL in a name
            return f"{inside} -1"
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return f"{inside} -1"

    def names(start: int) -> list[str]:
        return [name(file) for file in files[start : start + _FILES_AT_ONCE]]

    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        round_size = _NUM_THREADS * _FILES_AT_ONCE  # names of all rounds at once would not fit into memory
        for start in range(0, len(files), round_size):
            for block in threads.map(names, range(start, min(start + round_size, len(files)), _FILES_AT_ONCE)):
                yield from block


def dataset_inputs(samples: np.ndarray) -> dict[str, Any]:
    """What identifies the data in a manifest: number of samples and fingerprint of the ordered sample list."""
    return {"num_samples": len(samples), "fingerprint": hashlib.sha256(samples.tobytes()).hexdigest()}


def require_same_samples(folder: Path, samples: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Refuses an artefact of other samples, saying how many differ and which come first.

    Args:
        folder: of the artefact; one without a sample list is left to the check of its inputs.
        samples: uint64 (N,), the data set of this run.
        name_of: the name of the sample at an index of this run's data set.

    Raises:
        ArtifactError: samples were renamed, resized, added, removed or reordered since.
    """
    if not (folder / SAMPLES_FILE).is_file():
        return
    found = artifacts.read_array(folder / SAMPLES_FILE)
    if found.ndim != 1 or found.dtype != samples.dtype:
        raise ArtifactError(
            f"{folder / SAMPLES_FILE} must hold (N,) of {samples.dtype}, found {found.shape} of {found.dtype}. Delete "
            "the folder to make it again."
        )
    common = min(len(found), len(samples))
    differing = np.flatnonzero(found[:common] != samples[:common])
    if not len(differing) and len(found) == len(samples):
        return
    num_differing = len(differing) + abs(len(found) - len(samples))
    first = [*differing[:_SHOWN], *range(common, len(samples))][:_SHOWN]
    shown = "; ".join(f"sample {index} is now {name_of(int(index))!r}" for index in first)
    raise ArtifactError(
        f"{folder} was made for other data: {num_differing} of {len(samples)} samples differ (it has {len(found)})"
        + (f". {shown}" if shown else "")
        + ". Files were renamed, changed in size, added, removed or reordered since. Restore them, name another folder "
        "(CLUSTERFIT.OUTPUT_DIR, CLUSTERFIT.FEATURES.PATH), or move this one away to make it again."
    )
