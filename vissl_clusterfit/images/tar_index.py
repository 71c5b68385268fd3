"""What is where in a tar file, found once and kept beside it, so that images are read by their position."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.images.base import is_image
from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_json

_VERSION = 1
_LABEL = ".cls"
_BLOCK, _MOST_LINKS = 512, 8
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


@dataclass(frozen=True)
class TarIndex:
    """The images in a tar file, in its order.

    Attributes:
        size, time: of the file, in bytes and nanoseconds, when it was indexed.
        names: of the images.
        offsets, sizes: where the bytes of each begin, and how many they are; a link has those of what it leads to, and
            the size -1 where that is not there. So has a sparse file, which has no bytes of its own.
        labels: of each, from the ``.cls`` beside it; None where one has none.
    """

    size: int
    time: int
    names: list[str]
    offsets: list[int]
    sizes: list[int]
    labels: list[int] | None


def index_of(shard: str) -> TarIndex:
    """The index of a tar file: the one beside it if it is of this file, else made, and kept there if that can be.

    Raises:
        DataError: it is no tar file that can be read by position, is cut off, or has two files of one name.
    """
    kept = Path(os.path.dirname(shard), f".{os.path.basename(shard)}.index.json")
    try:
        state = os.stat(shard)
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror or error}.") from None
    index = _kept_index(kept, state)
    if index is None:
        index = _made_index(shard, state)
        content = json.dumps({"version": _VERSION, **asdict(index)}).encode("ascii")
        with contextlib.suppress(ArtifactError):  # where nothing can be written, it is made again each time
            write_file(kept, lambda file: file.write(content), synced=False)
    return index


def _kept_index(kept: Path, state: os.stat_result) -> TarIndex | None:
    """The index beside a tar file; None if there is none, or it is damaged or of another file."""
    try:
        found = load_json(kept)
        if not isinstance(found, dict) or found.pop("version", None) != _VERSION:
            return None
        index = TarIndex(**found)
        if (index.size, index.time) != (state.st_size, state.st_mtime_ns):
            return None
        columns = [(index.names, str), (index.offsets, int), (index.sizes, int)]
        columns += [] if index.labels is None else [(index.labels, int)]
        fits = all(
            isinstance(values, list) and len(values) == len(index.names) and set(map(type, values)) <= {kind}
            for values, kind in columns
        )
        return index if fits else None
    except (OSError, UnsafeFileError, TypeError):
        return None


def _made_index(shard: str, state: os.stat_result) -> TarIndex:
    names: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                of_class = name.endswith(_LABEL)
                is_link = member.issym() or member.islnk()
                if not (member.isreg() or is_link) or not (of_class or is_image(name)):
                    continue
                if name in places or name in links:
                    found = f"two files of the same name: {name!r}"
                    raise DataError(problem(shard, found=found, allowed="one file of each name in a tar"))
                if is_link:
                    folder = posixpath.dirname(name) if member.issym() else ""
                    links[name] = posixpath.normpath(posixpath.join(folder, member.linkname))
                else:
                    places[name] = (0, -1) if member.issparse() else (member.offset_data, member.size)
                if of_class:
                    classes[_sample_of(name)] = _class_in(archive, member, shard)
                else:
                    names.append(name)
            _require_end(archive, shard)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(_no_tar(shard, error)) from None
    found_at = [_place_of(name, places, links) for name in names]
    labels = [classes[sample] for sample in map(_sample_of, names) if sample in classes]
    return TarIndex(
        size=state.st_size,
        time=state.st_mtime_ns,
        names=names,
        offsets=[offset for offset, _ in found_at],
        sizes=[size for _, size in found_at],
        labels=labels if labels and len(labels) == len(names) else None,
    )


def _sample_of(name: str) -> str:
    """What files of one sample share, as WebDataset has it: all before the first dot of the last part."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _class_in(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: str) -> int:
    file = archive.extractfile(member)
    text = file.read(_BLOCK) if file else b""
    try:
        return int(text)
    except ValueError:
        found = f"{member.name!r} with {text[:20]!r}"
        raise DataError(problem(shard, found=found, allowed="a whole number in each .cls")) from None


def _place_of(name: str, places: Mapping[str, tuple[int, int]], links: Mapping[str, str]) -> tuple[int, int]:
    for _ in range(_MOST_LINKS):
        if name in places:
            return places[name]
        name = links.get(name, "")
    return (0, -1)


def _require_end(archive: tarfile.TarFile, shard: str) -> None:
    """Refuses what ``tarfile`` takes for the end of an archive without a word: a header that is damaged."""
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    if file.read(_BLOCK).strip(b"\0"):
        found = f"no header of a file at byte {archive.offset}"
        raise DataError(problem(shard, found=found, allowed="a tar that is whole", remedy="Fetch or write it again."))


def _no_tar(shard: str, error: Exception) -> str:
    with open(shard, "rb") as file:
        beginning = file.read(6)
    for signature, (kind, command) in _COMPRESSED.items():
        if beginning.startswith(signature):
            remedy = f"Unpack it once: {command} {shard}."
            return problem(
                shard,
                found=f"a compressed file ({kind})",
                allowed="a tar without compression, which is read by position; pictures are compressed themselves",
                remedy=remedy,
            )
    return f"{shard} cannot be read as a tar: {error}. Fetch or write it again."
