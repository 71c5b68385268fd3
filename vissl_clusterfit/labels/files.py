"""The arrays of a label artefact in the making: written in the order of the samples, with a mark of how far they are.

They are in their places from the start. What makes them an artefact is the manifest, which is written last. For another
file system (``storage/remote.py``), where nothing can be appended to a file, they are written on this machine and
copied when they are complete; labelling that was stopped then begins again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from vissl_clusterfit.errors import ArtifactError, cannot_write
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.remote import as_remote

logger = logging.getLogger(__name__)

LABELS_FILE, DISTANCES_FILE, MARGINS_FILE, SIZES_FILE = "labels.npy", "distances.npy", "margins.npy", "sizes.npy"
NEAREST_FILE, NEAREST_DISTANCES_FILE = "nearest.npy", "nearest_distances.npy"

_ARRAYS = {LABELS_FILE: "<i8", DISTANCES_FILE: "<f4", MARGINS_FILE: "<f4"}
_NEAREST_ARRAYS = {NEAREST_FILE: "<i8", NEAREST_DISTANCES_FILE: "<f4"}
PROGRESS_FILE = "progress.json"
_ROWS_BETWEEN_MARKS = 1 << 20
_ROWS_COUNTED_AT_ONCE = 1 << 15


class LabelFiles:
    """Labels, distances and margins of N samples, and with T > 1 their T nearest clusters and distances to them.

    They are appended in the order of the samples; it is a context that closes the files.

    Args:
        folder: of the artefact.
        num_samples: N.
        run: identifies what is written; what another run left is written over.
        top_clusters: T.

    Attributes:
        names: of the files, in the order in which :meth:`append` takes their arrays.
        num_done: the samples that are written.
    """

    def __init__(self, folder: Path, num_samples: int, run: str, top_clusters: int = 1) -> None:
        self._goal = folder
        self._own = tempfile.TemporaryDirectory(prefix="labels-") if as_remote(folder) else None
        #: Where the arrays are written.
        self._folder = Path(self._own.name) if self._own else folder
        self._num_samples = num_samples
        self._run = run
        # What is written for one sample, file by file.
        self._arrays = {name: np.dtype(dtype) for name, dtype in _ARRAYS.items()}
        if top_clusters > 1:
            self._arrays |= {name: np.dtype((dtype, (top_clusters,))) for name, dtype in _NEAREST_ARRAYS.items()}
        self.names = tuple(self._arrays)
        self._files: list[tuple[BinaryIO, np.dtype]] = []
        self.num_done = 0

    def __enter__(self) -> LabelFiles:
        marked = self._marked()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, dtype in self._arrays.items():
                self._files.append((self._open(name, dtype, marked), dtype))
        except OSError as error:
            self._close()
            raise self._refused(error) from error
        if marked:
            logger.info("Labelling resumes after %d of %d samples.", marked, self._num_samples)
        self.num_done = self._num_marked = marked
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        if self._own:
            self._own.cleanup()

    def _close(self) -> None:
        for file, _ in self._files:
            # What was not marked is written again; and a full disk refuses to close a file, too.
            with contextlib.suppress(OSError):
                file.close()

    def _open(self, name: str, dtype: np.dtype, marked: int) -> BinaryIO:
        path, header = self._folder / name, self._header(dtype)
        file: BinaryIO
        if marked:
            file = open(path, "r+b")  # noqa: SIM115  (closed when the context ends)
            file.seek(len(header) + marked * dtype.itemsize)
        else:
            # A new file, so that a process that still writes the old one writes into nothing.
            path.unlink(missing_ok=True)
            file = open(path, "xb")  # noqa: SIM115
            file.write(header)
        return file

    def _header(self, dtype: np.dtype) -> bytes:
        header = io.BytesIO()
        content = {"descr": dtype.base.str, "fortran_order": False, "shape": (self._num_samples, *dtype.shape)}
        np.lib.format.write_array_header_1_0(header, content)
        return header.getvalue()

    def _marked(self) -> int:
        """The samples that this run has written before."""
        try:
            progress = artifacts.read_json(self._folder / PROGRESS_FILE)
        except ArtifactError:
            return 0
        marked = progress.get("num_done")
        if progress.get("run") != self._run or not isinstance(marked, int) or not 0 < marked <= self._num_samples:
            return 0
        return marked if all(self._reaches(name, dtype, marked) for name, dtype in self._arrays.items()) else 0

    def _reaches(self, name: str, dtype: np.dtype, marked: int) -> bool:
        header = self._header(dtype)
        try:
            with open(self._folder / name, "rb") as file:
                same = file.read(len(header)) == header
                return same and file.seek(0, os.SEEK_END) >= len(header) + marked * dtype.itemsize
        except OSError:
            return False

    def append(self, *arrays: np.ndarray) -> None:
        """Writes what belongs to the next samples: one array for each file, all of the same length.

        Raises:
            ArtifactError: the file system refuses.
        """
        try:
            for (file, dtype), array in zip(self._files, arrays, strict=True):
                file.write(np.ascontiguousarray(array, dtype=dtype.base).data)
        except OSError as error:
            raise self._refused(error) from error
        self.num_done += len(arrays[0])
        if self.num_done - self._num_marked >= _ROWS_BETWEEN_MARKS:
            self._mark()

    def _mark(self) -> None:
        """Says how far the files are, after they are."""
        try:
            for file, _ in self._files:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._refused(error) from error
        self.require_own()
        artifacts.write_json(self._folder / PROGRESS_FILE, {"run": self._run, "num_done": self.num_done})
        self._num_marked = self.num_done

    def require_own(self) -> None:
        """Checks that the files in their places are still those that this process writes.

        Raises:
            ArtifactError: another run has begun to write its own.
        """
        for (file, _), name in zip(self._files, self.names, strict=True):
            try:
                own = os.path.samestat(os.fstat(file.fileno()), os.stat(self._folder / name))
            except OSError:
                own = False
            if not own:
                raise ArtifactError(f"{self._folder} is written by another run now; this one stops.")

    def complete(self) -> None:
        """Says that all samples are written, and removes arrays that another run has left and this one lacks.

        Raises:
            ArtifactError: the file system refuses, or another run writes into the folder.
        """
        assert self.num_done == self._num_samples, f"{self.num_done} of {self._num_samples} samples are written"
        self._mark()
        try:
            for name in _NEAREST_ARRAYS.keys() - self._arrays.keys():
                (self._goal / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error) from error
        if self._own and (goal := as_remote(self._goal)):
            goal.mkdir()
            for name in self.names:
                with open(self._folder / name, "rb") as file:
                    (goal / name).write_from(file)

    def count(self, num_clusters: int) -> tuple[np.ndarray, int]:
        """How many samples carry each label (K,) int64, and how many have a distance but no label."""
        sizes, num_far = np.zeros(num_clusters, dtype=np.int64), 0
        labels = artifacts.read_array(self._folder / LABELS_FILE, mmap=True)
        distances = artifacts.read_array(self._folder / DISTANCES_FILE, mmap=True)
        for start in range(0, self._num_samples, _ROWS_COUNTED_AT_ONCE):
            part = labels[start : start + _ROWS_COUNTED_AT_ONCE]
            sizes += np.bincount(part[part >= 0], minlength=num_clusters)
            num_far += int(((part < 0) & (distances[start : start + _ROWS_COUNTED_AT_ONCE] >= 0)).sum())
        return sizes, num_far

    def remove_progress(self) -> None:
        """Forgets how far the files are, once they are an artefact."""
        (self._folder / PROGRESS_FILE).unlink(missing_ok=True)

    def _refused(self, error: OSError) -> ArtifactError:
        return cannot_write(self._folder, error)
