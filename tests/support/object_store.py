"""Two file systems that iopath's path manager reaches through handlers, and that give as little as real ones do.

Importing this module registers both, as a user's module does that ``VISSL_CLUSTERFIT_IMPORT`` names. What is
written appears whole when it is closed; nothing can be moved, appended to, locked or dated.
"""

import abc
import hashlib
import io
import os
from pathlib import Path
from urllib.parse import quote, unquote

from iopath.common.file_io import PathHandler, g_pathmgr

#: An environment variable: the folder in which both keep what they hold.
ROOT_VARIABLE = "TEST_OBJECT_STORE_ROOT"


class Handler(PathHandler, abc.ABC):
    """What both have in common.

    Attributes:
        root: where the content lies.
        written: every file that was written, in order.
        refuses_write: the number of the file that cannot be written, of those since the last ``forget``; none if < 0.
    """

    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(os.environ.get(ROOT_VARIABLE, "/nowhere"))
        self.forget()

    def forget(self) -> None:
        self.written: list[str] = []
        self.refuses_write = -1

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _open(self, path: str, mode: str = "r", buffering: int = -1):
        if mode == "rb":
            return io.BytesIO(self.file(path).read_bytes())
        if mode != "wb":
            raise OSError(f"unsupported open mode {mode}")
        return _Upload(self, path)

    def put(self, path: str, content: bytes) -> None:
        if len(self.written) == self.refuses_write:
            raise RuntimeError("503 Slow Down")
        self.file(path).write_bytes(content)
        self.written.append(path)

    @abc.abstractmethod
    def file(self, path: str) -> Path:
        """The file of this machine that holds a file of the other."""


class _Upload(io.BytesIO):
    def __init__(self, handler: Handler, path: str) -> None:
        super().__init__()
        self._handler, self._path = handler, path

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._handler.put(self._path, content)


class ObjectStore(Handler):
    """``store://bucket/key``, like an S3 handler: keys and no folders, but for objects whose key ends with a slash."""

    prefix = "store://"

    def file(self, path: str) -> Path:
        return self.root / "objects" / quote(_key(path), safe="")

    def _open(self, path: str, mode: str = "r", buffering: int = -1):
        try:
            return super()._open(path, mode, buffering)
        except FileNotFoundError as error:
            raise OSError("an error occurred (404)") from error  # and no more than that

    def put(self, path: str, content: bytes) -> None:
        self.file(path).parent.mkdir(parents=True, exist_ok=True)
        super().put(path, content)

    def _exists(self, path: str) -> bool:
        return self.file(path).exists()

    def _isfile(self, path: str) -> bool:
        return not path.endswith("/") and self._exists(path)

    def _isdir(self, path: str) -> bool:
        return path.endswith("/") and self._exists(path)

    def _ls(self, path: str) -> list[str]:
        key = _key(path)
        below = [other.removeprefix(key) for other in self.all_keys() if other.startswith(key)]
        return [key + name.partition("/")[0] + "/" * ("/" in name) for name in below]

    def all_keys(self) -> list[str]:
        folder = self.root / "objects"
        return [unquote(name) for name in sorted(os.listdir(folder))] if folder.is_dir() else []

    def _mkdirs(self, path: str) -> None:
        assert path.endswith("/"), path
        self.file(path).parent.mkdir(parents=True, exist_ok=True)
        self.file(path).write_bytes(b"")

    def _rm(self, path: str) -> None:
        self.file(path).unlink(missing_ok=True)


class Fraction(Handler):
    """``share://host/path``, like a network file system: folders that must be made first, plain names in a listing."""

    prefix = "share://"

    def file(self, path: str) -> Path:
        return self.root / "share" / _key(path)

    def _get_local_path(self, path: str, force: bool = False) -> str:
        raise AssertionError(f"{path} from a cache may be an old one")

    def _exists(self, path: str) -> bool:
        return self.file(path).exists()

    def _isfile(self, path: str) -> bool:
        return self.file(path).is_file()

    def _isdir(self, path: str) -> bool:
        return self.file(path).is_dir()

    def _ls(self, path: str) -> list[str]:
        return os.listdir(self.file(path))

    def _mkdirs(self, path: str) -> None:
        self.file(path).mkdir(parents=True, exist_ok=True)

    def _rm(self, path: str) -> None:
        self.file(path).unlink()


def _key(uri: str) -> str:
    return uri.partition("://")[2]


HANDLERS: dict[str, Handler] = {handler.prefix: handler for handler in (ObjectStore(), Fraction())}
for each in HANDLERS.values():
    g_pathmgr.register_handler(each)


def handler_of(uri: object) -> Handler:
    """What holds a URI."""
    return HANDLERS[str(uri).partition("://")[0] + "://"]


def contents(uri: object) -> dict[str, str]:
    """Every file below a URI with the SHA-256 of its bytes, as ``tiny_store.contents`` gives it of a folder."""
    handler, below = handler_of(uri), f"{uri}/"
    if isinstance(handler, ObjectStore):
        keys = [key for key in handler.all_keys() if key.startswith(_key(below)) and not key.endswith("/")]
        files = {key.removeprefix(_key(below)): handler.file(f"://{key}") for key in keys}
    else:
        folder = handler.file(below)
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in sorted(files.items())}
