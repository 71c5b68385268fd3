"""The archives of a publisher: found, checked, and unpacked so that a killed run resumes where it was."""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.storage.artifacts import read_json, write_json
from vissl_clusterfit.storage.untrusted import UnsafeFileError, require_no_bomb

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK_BYTES = 1 << 20
_NOT_AN_ARCHIVE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, UnsafeFileError)
_HEADER_BYTES = 512
#: Of a name or of the texts of a member, which tarfile reads whole.
_LONGEST_TEXT = 1 << 20
_TEXTS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Member(tarfile.TarInfo):
    """A member of a tar whose texts have a bound."""

    @classmethod
    def frombuf(cls, *args: Any, **kwargs: Any) -> Self:
        """The member that a header begins.

        Raises:
            UnsafeFileError: its texts would fill the memory.
        """
        member = super().frombuf(*args, **kwargs)
        if member.type in _TEXTS and member.size > _LONGEST_TEXT:
            raise UnsafeFileError(f"a name or a text of {member.size} bytes in it")
        return member


class Sources:
    """The files that a publisher ships, in one folder, and what is unpacked of them.

    Args:
        archives: Their folder.
        unpacked: Where they are unpacked.
        expected: Their names and MD5 sums, "" where none is published.
        check_sums: Whether sums are checked.

    Raises:
        DataError: some are missing; all of these are named.
    """

    def __init__(self, archives: Path, unpacked: Path, expected: Mapping[str, str], *, check_sums: bool) -> None:
        missing = [name for name in expected if not (archives / name).is_file()]
        if missing:
            raise DataError(
                f"{archives}: {', '.join(missing)} missing; expected there, as the publisher ships them: "
                f"{', '.join(expected)}. Nothing is downloaded for you; docs/datasets.md says what each is."
            )
        self.archives = archives
        self._unpacked = unpacked
        self._sums = expected if check_sums else {}

    def file(self, name: str) -> Path:
        """A file that is no archive, or is read as it is, with its sum checked."""
        path = self.archives / name
        expected = self._sums.get(name)
        if expected and (found := _md5(path)) != expected:
            raise DataError(f"{path}: found the MD5 sum {found}; expected: {expected}. Get the file again.")
        return path

    def folder(self, name: str, *, of_tars: bool = False) -> Path:
        """The folder with the files of an archive.

        Args:
            name: of the archive.
            of_tars: it holds tars, each of which becomes a folder of its name.

        Raises:
            DataError: it is damaged, has another sum than published, or a member would land outside the folder.
        """
        path = self.archives / name
        folder = self._unpacked / name.partition(".tar")[0].removesuffix(".tgz")
        done, is_now = folder.with_name(f"{folder.name}.done.json"), {"bytes": path.stat().st_size}
        if done.is_file() and read_json(done) == is_now:
            return folder
        _unpack(self.file(name), folder, of_tars)
        os.sync()  # what is marked as done must outlive a loss of power
        write_json(done, is_now)
        return folder


def _unpack(path: Path, folder: Path, of_tars: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        packed, unpacked = path.stat().st_size, 0
        with tarfile.open(path, "r|*", tarinfo=_Member) as outer:
            for tar, place in _tars(outer, folder) if of_tars else [(outer, folder)]:
                while (member := tar.next()) is not None:
                    unpacked += _HEADER_BYTES + member.size
                    require_no_bomb(unpacked, packed)
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them: 1.2 GiB for Places205
                    # Publishers ship files: links and devices have no part in a data set.
                    if member.isreg() and not _is_there(place / member.name, member.size):
                        tar.extract(member, place, filter="data", set_attrs=False)
    except _NOT_AN_ARCHIVE as error:
        raise DataError(f"{path} cannot be unpacked: {error or type(error).__name__}. Get the file again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked into {folder}: {error}. What is done is kept.") from None


def _tars(outer: tarfile.TarFile, folder: Path) -> Iterator[tuple[tarfile.TarFile, Path]]:
    for member in outer:
        stem = Path(member.name).name.removesuffix(".tar")
        if member.isreg() and member.name.endswith(".tar") and stem.strip("."):
            with tarfile.open(fileobj=outer.extractfile(member), mode="r|", tarinfo=_Member) as tar:
                yield tar, folder / stem


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def folder_holding(root: Path, inside: str, what: str) -> Path:
    """The folder at or below ``root`` that has the path ``inside``: publishers pack some levels of folders around it.

    Raises:
        DataError: there is none.
    """
    level = [root]
    while level:
        for folder in level:
            if (folder / inside).exists():
                return folder
        level = [below for folder in level for below in _folders(folder)]
    raise DataError(f"{root}: found no {inside}; expected: {what}, in the layout of the publisher.")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
