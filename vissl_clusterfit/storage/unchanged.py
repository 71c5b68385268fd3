"""Whether a file is the one that its manifest names, asked before something new is made of it; answers are cached."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.remote import as_remote

# A file may be changed without another time stamp within so many seconds.
_TIME_RESOLUTION_S = 2.0

#: By path: device, inode, size and time of a file that was hashed, and its hash; and a lock for the process's threads.
_known_hashes: dict[str, tuple[tuple[int, ...], str]] = {}
_hash_locks: dict[str, threading.Lock] = {}


def require_unchanged(path: Path, sha256: str | None) -> None:
    """Checks a file against the hash in its manifest, before something new is made of it: once per process.

    Args:
        path: of the file; on another file system, it is checked where it is fetched.
        sha256: what its bytes must have; None where an older manifest does not say, and nothing is checked.

    Raises:
        ArtifactError: it is another one, or cannot be read.
    """
    if sha256 is None or as_remote(path):
        return
    with _hash_locks.setdefault(str(path), threading.Lock()):
        try:
            state = path.stat()
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing.") from None
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror or error}.") from None
        which = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        known, found = _known_hashes.get(str(path), ((), ""))
        if known != which:
            found = artifacts.file_sha256(path)
            if time.time() - state.st_mtime > _TIME_RESOLUTION_S:
                _known_hashes[str(path)] = which, found
    if found != sha256:
        raise ArtifactError(f"{path} is not the file that was written: its SHA-256 is {found}, not {sha256}.")
