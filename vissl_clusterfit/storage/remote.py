"""Places on other file systems, by URI, through the handlers that are registered with iopath as for VISSL itself.

What is relied on is little, as an object store gives little: a file that is opened for writing is there, whole, once it
is closed; a file can be read, removed and looked for; the names in a folder can be listed. There is no moving, no
appending, no time of a change, no lock. Files are read again each time, never from a handler's cache.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, TypeVar, cast

from iopath.common.file_io import g_pathmgr

from vissl_clusterfit.errors import ArtifactError

#: How a URI begins. Of "hdfs:///folder" the third slash, too: an empty host.
ROOT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)/?")
_IN_MEMORY_BYTES = 1 << 24
# What a listing does not say of names that end like this need not be asked for.
_FILE_ENDINGS = (".json", ".npy")
_NO_FOLDER = (FileNotFoundError, NotADirectoryError)

Answer = TypeVar("Answer")


def as_remote(path: Path) -> RemotePath | None:
    """A path as what it is on another file system; None for one of this machine."""
    found: object = path
    return found if isinstance(found, RemotePath) else None


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder of another file system, with those methods of ``pathlib.Path`` that artefacts need.

    Builtin functions that take a path refuse it: it is none of this machine.

    Attributes:
        uri: without a slash at its end.
    """

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.uri}{name}" if self.uri.endswith("/") else f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that this is in; the outermost one is in itself."""
        root = ROOT.match(self.uri)
        assert root is not None, "artifact_path makes no other ones"
        return RemotePath(root[0] + self.uri[root.end() :].rpartition("/")[0])

    @property
    def _as_folder(self) -> str:
        # Where folders are only parts of names, the slash tells them from files.
        return self.uri if self.uri.endswith("/") else f"{self.uri}/"

    def with_name(self, name: str) -> RemotePath:
        """The place beside this one that has another name."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is a file; a folder need not be known where folders are only parts of names."""
        return self._ask("be looked for", g_pathmgr.exists, self._opens)

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._ask("be looked for", g_pathmgr.isfile, self._opens)

    def _opens(self, _: str) -> bool:
        try:
            with g_pathmgr.open(self.uri, "rb"):
                return True
        except OSError:
            return False

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Makes a folder and those above it, where there are such things."""
        assert (parents, exist_ok) == (True, True), "other file systems make folders in one way only"
        self._ask("be made", lambda _: g_pathmgr.mkdirs(self._as_folder), lambda _: None)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Removes a file."""
        try:
            self._ask("be removed", g_pathmgr.rm, expected=(FileNotFoundError,))
        except (FileNotFoundError, ArtifactError):
            if not missing_ok or self.exists():
                raise

    def open(self, mode: str = "rb") -> BinaryIO:
        """Opens a file for reading: all of it is fetched at once, into memory or a nameless file of this machine."""
        assert mode == "rb", "files are written whole: see write_from"
        file = cast(BinaryIO, tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES))  # noqa: SIM115  (the caller closes it)
        try:
            self.fetch(file)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def fetch(self, file: IO[bytes]) -> None:
        """Writes the content of this file into one that is open."""

        def copy(uri: str) -> None:
            try:
                source = g_pathmgr.open(uri, "rb")
            except Exception as error:
                if isinstance(error, FileNotFoundError) or not self.is_file():
                    raise FileNotFoundError(uri) from error
                raise
            with source:
                shutil.copyfileobj(cast(BinaryIO, source), file, 1 << 20)

        self._ask("be read", copy, expected=(FileNotFoundError,))

    def read_bytes(self) -> bytes:
        """The content of a file."""
        with self.open() as file:
            return file.read()

    def read_text(self, encoding: str) -> str:
        """The content of a text file."""
        return self.read_bytes().decode(encoding)

    def write_from(self, file: BinaryIO) -> None:
        """Writes a file with what is left to read of another."""

        def copy(uri: str) -> None:
            with g_pathmgr.open(uri, "wb") as place:
                shutil.copyfileobj(file, cast(BinaryIO, place), _IN_MEMORY_BYTES)

        self._ask("be written", copy)

    def children(self) -> tuple[list[str], list[str]]:
        """The names of the folders and of the files in a folder, sorted; none where there is no such folder.

        Handlers list plain names, or whole keys; some give folders a slash at the end, and list the folder itself.
        """
        here = self._as_folder
        try:
            listed = self._ask("be listed", lambda _: g_pathmgr.ls(here), expected=_NO_FOLDER)
        except _NO_FOLDER:
            return [], []
        folders: set[str] = set()
        files: set[str] = set()
        for entry in listed:
            name = entry.rstrip("/").rpartition("/")[2]
            if not name or (entry.endswith("/") and here.endswith(f"/{entry}")):
                continue
            is_folder = entry.endswith("/") or (not name.endswith(_FILE_ENDINGS) and (self / name)._is_dir())
            (folders if is_folder else files).add(name)
        return sorted(folders), sorted(files)

    def _is_dir(self) -> bool:
        return self._ask("be looked for", g_pathmgr.isdir, lambda _: False)

    def remove_folder(self) -> None:
        """Removes a folder and all that is in it."""
        folders, files = self.children()
        for name in files:
            (self / name).unlink(missing_ok=True)
        for name in folders:
            (self / name).remove_folder()
        with contextlib.suppress(Exception):  # the object that stands for a folder, where there is one
            g_pathmgr.rm(self._as_folder)

    def _ask(
        self,
        what: str,
        work: Callable[[str], Answer],
        otherwise: Callable[[str], Answer] | None = None,
        expected: tuple[type[Exception], ...] = (),
    ) -> Answer:
        """Has the handler do something; what it raises that is not expected, of any type, becomes one message."""
        try:
            try:
                return work(self.uri)
            except NotImplementedError:
                if otherwise is None:
                    raise
                return otherwise(self.uri)
        except ArtifactError:
            raise
        except Exception as error:
            if isinstance(error, expected):
                raise
            raise ArtifactError(
                f"{self.uri} cannot {what}: {type(error).__name__}: {error}. What is done is kept: "
                "start again when that is fixed, or name another folder."
            ) from error
