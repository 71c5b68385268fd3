"""The files of one artefact as ``verify.py`` reads them: none is believed before its hash is that of the manifest.

A file is opened by the name that its kind of artefact gives it, never by a name that a manifest brings.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.rows_files import OpenRows, RowsFile
from vissl_clusterfit.features.sample_list import SAMPLES_FILE
from vissl_clusterfit.features.sample_names import NAMES_FILE, names_fit
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.remote import as_remote

_BLOCK_VALUES = 1 << 17


class Contents:
    """The files of one artefact, and what is wrong with them.

    Args:
        folder: of the artefact.
        manifest: as ``artifacts.read_manifest`` gives it.

    Attributes:
        digests: the SHA-256 of each file, as the manifest names it.
        problems: what was found so far, one line each.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.digests: dict[str, str] = dict(manifest.get("sha256", {}))
        self.problems: list[str] = []
        self._used: set[str] = set()

    def require(self, holds: bool | np.bool_, problem: str, name: str = artifacts.MANIFEST_NAME) -> None:
        """Notes a problem of a file, unless something holds."""
        if not holds:
            self.problems.append(f"{self.folder / name} {problem}.")

    def array(self, name: str, shape: tuple[int, ...], dtype: str, *, hashed: bool = True) -> np.ndarray | None:
        """An array, mapped from disk; None if it is not what was written, which is noted.

        Args:
            name: of the file.
            shape: that it must have.
            dtype: that it must have.
            hashed: whether the manifest names its SHA-256.
        """
        self._used.add(name)
        path = self.folder / name
        try:
            require_inside(self.folder, name)
            array = artifacts.read_array(path, shape=shape, dtype=dtype, mmap=True)
            if hashed:
                self._require_hash(path)
        except ArtifactError as error:
            self.problems.append(str(error))
            return None
        return array

    def _require_hash(self, path: Path) -> None:
        expected, found = self.digests.get(path.name), artifacts.file_sha256(path)
        if expected is None:
            raise ArtifactError(f"{path} has no SHA-256 in the manifest.")
        if found != expected:
            raise ArtifactError(f"{path} is not the file that was written: its SHA-256 is {found}, not {expected}.")

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None if it cannot be read, which is noted."""
        try:
            require_inside(self.folder, name)
            return artifacts.read_json(self.folder / name)
        except ArtifactError as error:
            self.problems.append(str(error))
            return None

    def check_samples(self, dataset: Mapping[str, Any], *, hashed: bool = True) -> None:
        """Checks the sample list, which must be that of the data set in the inputs."""
        num_samples = self.manifest["num_samples"]
        self.require(dataset["num_samples"] == num_samples, "counts other samples than its inputs")
        samples = self.array(SAMPLES_FILE, (num_samples,), "<u8", hashed=hashed)
        if samples is None:
            return
        digest = hashlib.sha256()
        for _, block in blocks(samples):
            digest.update(block.tobytes())
        same = digest.hexdigest() == dataset["fingerprint"]
        self.require(same, "is not the sample list that the inputs name by its fingerprint", SAMPLES_FILE)

    def check_names(self, *, hashed: bool = True) -> None:
        """Checks the names of the samples, if they are kept: they must be those that the sample list is made of."""
        path = self.folder / NAMES_FILE
        if NAMES_FILE not in self.digests and not path.is_file():
            return
        self._used.add(NAMES_FILE)
        try:
            require_inside(self.folder, NAMES_FILE)
            if hashed:
                self._require_hash(path)
            same = names_fit(self.folder, artifacts.read_array(self.folder / SAMPLES_FILE, mmap=True))
            self.require(same, "holds other names than those that the sample list is made of", NAMES_FILE)
        except ArtifactError as error:
            self.problems.append(str(error))

    def rows_elsewhere(
        self, name: str, told: Mapping[str, Any], shape: tuple[int, int], dtype: str
    ) -> np.ndarray | None:
        """The rows of a shard that are in a file of the user's; None if it is not the one that was imported."""
        self._used.add(name)
        try:
            file = RowsFile.from_json(told, self.digests[name])
            found = artifacts.file_sha256(file.path)
            if found != file.sha256:
                raise ArtifactError(
                    f"{file.path} is not the file that was imported: its SHA-256 is {found}, not {file.sha256}."
                )
            return OpenRows(file).rows(shape, dtype)
        except ArtifactError as error:
            self.problems.append(str(error))
            return None

    def require_no_other_names(self) -> None:
        """Notes names in the manifest that are of no file of this artefact, such as paths that lead out of it."""
        for name in sorted(self.digests.keys() - self._used):
            self.require(False, f"names {name!r}, which is no file of this artefact; it was not read")


def require_inside(folder: Path, name: str) -> None:
    """Checks that a file is there, a regular one, and in its folder, whatever links there are.

    Raises:
        ArtifactError: it is not.
    """
    path = folder / name
    if as_remote(path):  # where there are no links
        if not path.is_file():
            raise ArtifactError(f"{path} is missing.")
        return
    if not os.path.lexists(path):
        raise ArtifactError(f"{path} is missing.")
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ArtifactError(f"{path} is a link that leaves the folder of the artefact; it was not read.")
    if not path.is_file():
        raise ArtifactError(f"{path} is not a regular file.")


def blocks(*arrays: np.ndarray) -> Iterator[tuple[int, Any]]:
    """Arrays of equal length a few rows at a time: the number of the first row, and a block of each array."""
    rows = max(1, _BLOCK_VALUES * len(arrays[0]) // max(1, arrays[0].size))
    for start in range(0, len(arrays[0]), rows):
        block = tuple(np.asarray(array[start : start + rows]) for array in arrays)
        yield start, block if len(block) > 1 else block[0]
