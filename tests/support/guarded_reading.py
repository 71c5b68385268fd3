"""A reader of files that come from elsewhere, and what no reader may do: take long or much memory, write elsewhere."""

import contextlib
import dataclasses
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mutations
import torch

import vissl_clusterfit.plugin.bootstrap  # noqa: F401  # isort: split
from vissl_clusterfit.errors import ClusterFitError

_SECONDS = 10.0
_MEMORY_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Reader:
    """One way in.

    Attributes:
        make: Writes a valid file into an empty folder, with all that belongs to it, and gives its path.
        read: Reads it.
        inside: Changes what the format wraps: values of JSON, what is compressed.
        refuses: What the reader may raise.
        readable: Whether the valid file is read; not where it could run code.
        trusts_sizes: Whether it asks for what memory the file names, and refuses where there is less:
            PyTorch's own and SciPy's.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    inside: Callable[[bytes, list[mutations.Step]], bytes] = mutations.in_bytes
    refuses: tuple[type[Exception], ...] = (ClusterFitError,)
    readable: bool = True
    trusts_sizes: bool = False


def read(reader: Reader, path: Path, content: bytes) -> bool:
    """Whether a file with this content is read; if not, it is refused as it should be.

    Raises:
        Exception: whatever else the reader raises.
        AssertionError: it took what memory the file asked for, or longer than some seconds.
    """
    path.write_bytes(content)
    with bounded():
        try:
            reader.read(path)
            return True
        except reader.refuses as error:
            if _asked_for_too_much(error) and not reader.trusts_sizes:
                raise AssertionError("it took the file at its word") from error
            return False


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Lets a block have a gigabyte more than the process has, and a few seconds of its time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def too_long(*_: object) -> None:
        raise AssertionError(f"it takes more than {_SECONDS:.0f} seconds")

    before = signal.signal(signal.SIGPROF, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)


def _asked_for_too_much(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """A folder, around which nothing may be written."""
    with tempfile.TemporaryDirectory(prefix="read-") as around:
        folder = Path(around, "below", "folder")
        folder.mkdir(parents=True)
        yield folder
        assert [*Path(around).iterdir()] == [folder.parent], "it wrote outside its folder"
        assert [*folder.parent.iterdir()] == [folder], "it wrote outside its folder"


def write_file(name: str, content: bytes) -> Callable[[Path], Path]:
    """What makes a file of some content, as :attr:`Reader.make` does."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def torch_file(name: str, content: object, **options: object) -> Callable[[Path], Path]:
    """The same of what ``torch.save`` writes."""

    def make(folder: Path) -> Path:
        torch.save(content, folder / name, **options)
        return folder / name

    return make
