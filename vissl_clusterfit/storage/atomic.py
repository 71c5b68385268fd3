"""Files and folders that appear in their place whole or not at all, whenever the process that writes them is killed.

A file is written beside its place, under a name that says who writes it, and moved there with ``os.replace``. On
another file system (``storage/remote.py``) nothing can be moved; there a file is written in one go, and is there when
it is closed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vissl_clusterfit.errors import cannot_write
from vissl_clusterfit.storage.process_ids import named_process_has_died, process_name
from vissl_clusterfit.storage.remote import RemotePath, as_remote

# In the name of a file that is being written, behind the name that it will have.
_WRITER = re.compile(r"\.(\w+-\d+-\d*)-[0-9a-f]{16}\.tmp$")
_FORGOTTEN_AFTER_S = 3600.0


def write_file(path: Path, write: Callable[[BinaryIO], object], *, new: bool = False, synced: bool = True) -> bool:
    """Writes a file beside its place and moves it there, so that a reader sees all of it or nothing.

    Args:
        path: of the file; its folder is made.
        write: fills the open file.
        new: leave a file that is already there as it is.
        synced: wait until it is on the disk; else it is damaged if the machine loses its power in the next half minute.

    Returns:
        Whether the file in its place is the one that was written.

    Raises:
        ArtifactError: the file system refuses: it is full, read-only, or failing.
    """
    if remote := as_remote(path):
        return _write_remote_file(remote, write, new)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        if new:
            return move_if_new(temporary, path)
        os.replace(temporary, path)
        return True
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # a file system that is read-only refuses this, too
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder of this machine to fill, which gets its name when it is full and leaves nothing otherwise.

    Beside it, what killed processes left half-made is removed.

    Args:
        path: of the folder, where nothing is, or an empty one; those above it are made.

    Raises:
        ArtifactError: the file system refuses.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_remote_file(path: RemotePath, write: Callable[[BinaryIO], object], new: bool) -> bool:
    if new and path.exists():
        return False
    content = io.BytesIO()
    write(content)  # before the place is opened: an error then leaves what is there
    content.seek(0)
    path.parent.mkdir()
    path.write_from(content)
    return True


def temporary_path(path: Path) -> Path:
    """Where a file or folder is written that will be ``path``: beside it, under a name that no other process uses."""
    return path.with_name(f".{path.name}.{process_name()}-{uuid.uuid4().hex[:16]}.tmp")


def move_if_new(temporary: Path, path: Path) -> bool:
    """Gives a file that is written its name, unless another has it; whether it did. Two that try don't both succeed."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links, where two may seem to
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left half-written; what others of this host are writing now stays."""
    if as_remote(folder):
        return
    for path in folder.glob(".*.tmp"):
        writer = _WRITER.search(path.name)
        if writer is None:
            continue
        has_died = named_process_has_died(writer[1])
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                if has_died:  # of the living one cannot tell by its time, which is that of its first files
                    shutil.rmtree(path)
            elif has_died or time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
                path.unlink()
