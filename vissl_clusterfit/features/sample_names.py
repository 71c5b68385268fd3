"""``names.jsonl.gz``: the name of each sample, in order, beside the sample list that is made of the same names."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.errors import ArtifactError, with_remedy
from vissl_clusterfit.features.sample_list import SAMPLES_FILE, hash_samples
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.unchanged import require_unchanged
from vissl_clusterfit.storage.untrusted import json_in, require_no_bomb, require_regular

#: Optional in every artefact that is addressed by data-set index.
NAMES_FILE = "names.jsonl.gz"
_REMEDY = "Delete the file to do without names, or make the artefact again."
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 4
_LONGEST_LINE = 1 << 20
_HASHED_AT_ONCE = 1 << 16


class NameList:
    """Names that are gone through once, kept compressed: about ten bytes for the path of an image.

    Args:
        with_sizes: whether each name ends in a blank and a file's size, as in the sample list of a folder of images.
    """

    def __init__(self, *, with_sizes: bool = False) -> None:
        self._with_sizes = with_sizes
        self._content = b""

    def passing(self, names: Iterable[str]) -> Iterator[str]:
        """The same names; when the last one has passed, all are kept."""
        # Its header has no time, so the same names give the same bytes.
        compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
        parts = [compressor.compress(_line({"with_sizes": self._with_sizes}))]
        for name in names:
            if part := compressor.compress(_line(name)):
                parts.append(part)
            yield name
        self._content = b"".join([*parts, compressor.flush()])

    def write(self, folder: Path) -> None:
        """Writes the file into an artefact's folder, unless these very names are there: not cut, say, by a crash."""
        assert self._content, "all names have passed"
        path = folder / NAMES_FILE
        if not path.is_file() or path.read_bytes() != self._content:
            write_file(path, lambda file: file.write(self._content))


def list_samples(
    names: Iterable[str], *, keep_names: bool = True, with_sizes: bool = False
) -> tuple[np.ndarray, NameList | None]:
    """The sample list of names, uint64 (N,), and the names themselves where they are to be kept."""
    if not keep_names:
        return hash_samples(names), None
    kept = NameList(with_sizes=with_sizes)
    return hash_samples(kept.passing(names)), kept


def _line(value: object) -> bytes:
    return (json.dumps(value) + "\n").encode("ascii")


def require_whole_names(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks the names of an artefact that is opened, if it has them: they travel with all that is made of it.

    Raises:
        ArtifactError: they are not the file that was written.
    """
    path = folder / NAMES_FILE
    if not as_remote(path) and path.is_file():
        with with_remedy(_REMEDY):
            require_unchanged(path, manifest.get("sha256", {}).get(NAMES_FILE))


def copy_names(source: Path, goal: Path) -> bool:
    """Copies the names of one artefact to another of the same samples; whether there are any."""
    try:
        content = (source / NAMES_FILE).read_bytes()
    except FileNotFoundError:
        return False
    write_file(goal / NAMES_FILE, lambda file: file.write(content))
    return True


def read_names(folder: Path, *, as_hashed: bool = False) -> Iterator[str]:
    """The name of each sample of an artefact, in order.

    Args:
        folder: of the artefact.
        as_hashed: with the sizes that the sample list has.

    Raises:
        ArtifactError: there are none, or the file is damaged.
    """
    path = folder / NAMES_FILE
    try:
        require_regular(path)
        with path.open("rb") as compressed, gzip.open(compressed, "rt", encoding="ascii") as lines:
            packed, unpacked = compressed.seek(0, os.SEEK_END), 0
            compressed.seek(0)
            cut = bool(json_in(lines.readline(_LONGEST_LINE))["with_sizes"]) and not as_hashed
            while line := lines.readline(_LONGEST_LINE):
                unpacked += len(line)
                require_no_bomb(unpacked, packed)
                name = json_in(line)
                if not isinstance(name, str):
                    raise ValueError(f"a line holds {type(name).__name__}, not a name")
                yield name.rpartition(" ")[0] if cut else name
    except FileNotFoundError:
        raise ArtifactError(f"{folder} has no names of its samples: {NAMES_FILE} is missing.") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise ArtifactError(f"{path} cannot be read as names: {error!r}. {_REMEDY}") from None


def names_fit(folder: Path, samples: np.ndarray) -> bool:
    """Whether the names of an artefact are those that its sample list, uint64 (N,), is made of.

    Raises:
        ArtifactError: the file is damaged.
    """
    names, start = read_names(folder, as_hashed=True), 0
    while block := list(itertools.islice(names, _HASHED_AT_ONCE)):
        if not np.array_equal(hash_samples(block), samples[start : start + len(block)]):
            return False
        start += len(block)
    return start == len(samples)


def names_of(folder: Path) -> list[str] | None:
    """All names of an artefact, checked against its sample list; None if it has none.

    Raises:
        ArtifactError: they are damaged, or of other samples.
    """
    if not (folder / NAMES_FILE).is_file():
        return None
    if not names_fit(folder, artifacts.read_array(folder / SAMPLES_FILE, mmap=True)):
        raise ArtifactError(f"{folder / NAMES_FILE} holds names of other samples. {_REMEDY}")
    return list(read_names(folder))
