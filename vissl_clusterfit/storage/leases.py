"""Leases: who does which piece of work, among processes that share nothing but a folder.

A lease is a small file beside the work. Its holder touches it now and then. A lease is taken over when its holder has
died, or, on another host, has not touched it for long. Leases only keep two processes from doing the same work twice:
whatever is done twice gives the same bytes and is written atomically, so a lease that is lost or taken wrongly costs
time and nothing else. That is why plain files are enough, on any file system, without locks. On a remote file system
(``storage/remote.py``) no file can be made by one process alone: there all leases are free.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import cannot_write
from vissl_clusterfit.storage.atomic import move_if_new, remove_leftovers, temporary_path
from vissl_clusterfit.storage.process_ids import has_died, is_alive, this_process
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.untrusted import UnsafeFileError, json_in

logger = logging.getLogger(__name__)

_TOUCHED_EVERY_S = 5.0
#: A lease of another host or container that was not touched for so long is free. Long, as its holder may be stopped or
#: its file system slow. On the same host a holder's death is seen at once, and a living one holds on, even if stopped.
STALE_AFTER_S = 120.0


class Lease:
    """A piece of work that is this process's until it is released or the process dies.

    Args:
        path: of the lease's file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._toucher: threading.Thread | None = None

    def acquire(self) -> bool:
        """Takes the lease if it is free; whether it is this process's now.

        Raises:
            ArtifactError: the file system refuses.
        """
        if as_remote(self.path):
            return True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self._take_away_abandoned():
                return False
            if not _create(self.path, self._token):
                return False
        except OSError as error:
            folder = self.path.parent
            vanished = isinstance(error, FileNotFoundError | FileExistsError)
            if vanished and (folder.is_dir() or not os.path.lexists(folder)):
                return False  # whoever finishes the work removes the folder of its leases
            raise cannot_write(self.path, error) from error
        self._toucher = threading.Thread(target=self._touch, name=f"lease {self.path.name}", daemon=True)
        self._toucher.start()
        return True

    def release(self) -> None:
        """Gives the lease back, unless another process has taken it over."""
        self._released.set()
        if self._toucher is None:
            return
        self._toucher.join()
        if self._is_mine():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def holder(self) -> dict[str, Any]:
        """Who holds the lease: host, pid, and what tells it from others; empty if none does."""
        return _holder(self.path)

    def _is_mine(self) -> bool:
        return self.holder().get("token") == self._token

    def remove_abandoned(self) -> None:
        """Removes the lease of a process that has died when its work was done, where the folder may be written."""
        with contextlib.suppress(OSError):
            self._take_away_abandoned()

    def _take_away_abandoned(self) -> bool:
        if as_remote(self.path) or not _is_abandoned(self.path):
            return False
        # One process at a time removes leases: or the second of two would remove the lease that the first then took.
        guard = self.path.with_name(f"{self.path.name}.takeover")
        if _is_abandoned(guard):
            _remove(guard)
        if not _create(guard, self._token):
            return False
        try:
            if not _is_abandoned(self.path):
                return False
            return _remove(self.path)
        finally:
            guard.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._released.wait(_TOUCHED_EVERY_S):
            # One that was taken over would seem alive after its holder's death.
            if self._is_mine():
                with contextlib.suppress(OSError):
                    os.utime(self.path)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lease."""
    return path.exists() and not _is_abandoned(path)


@contextlib.contextmanager
def only_one(path: Path, work: str, is_done: Callable[[], bool]) -> Iterator[bool]:
    """Lets one process at a time into a block; the others wait for it. On another file system, it lets all in.

    Args:
        path: of the lease.
        work: what is done in the block, for the log.
        is_done: a function without arguments; once it says true, those who wait stop waiting.

    Yields:
        Whether the block's work is this process's; false when it was done by another meanwhile.
    """
    lease = Lease(path)
    waited = False
    while not lease.acquire():
        if not waited:
            holder = lease.holder()
            logger.info("%s: process %s on %s does this now; waiting.", work, holder.get("pid"), holder.get("host"))
            waited = True
        time.sleep(0.5)
        if is_done():
            yield False
            return
    try:
        yield not is_done()
    finally:
        lease.release()
        remove_leftovers(path.parent)


def _create(path: Path, token: str) -> bool:
    # With all that it says at once: an empty one, of a process that was killed meanwhile, would hold up the work.
    mine = temporary_path(path)
    try:
        mine.write_text(json.dumps({**this_process(), "token": token}), "utf-8")
        return move_if_new(mine, path)
    finally:
        with contextlib.suppress(OSError):
            mine.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        holder = json_in(content)
    except UnsafeFileError:
        return {}
    return holder if isinstance(holder, dict) and isinstance(holder.get("token"), str) else {}


def _is_abandoned(path: Path) -> bool:
    try:
        holder = _holder(path)
        if _is_damaged(path) or has_died(holder):
            return True
        return not is_alive(holder) and (_age(path) > STALE_AFTER_S or _is_still_in_future(path))
    except FileNotFoundError:
        return False


def _is_damaged(path: Path) -> bool:
    """Whether a lease says nothing. It came to its place whole, so the host of its holder has gone down since."""
    try:
        return not _parsed(path.read_bytes())
    except OSError:
        return False


def _is_still_in_future(path: Path) -> bool:
    """Whether a lease whose time is in the future was not touched for long, by this process's own clock.

    The clock of who touched it was off, or that of its file system: its age would be below 0 for as long.
    """
    touched, now = path.stat().st_mtime_ns, time.monotonic()
    ahead = -_age(path)
    if ahead < _TOUCHED_EVERY_S:
        _in_future.pop(str(path), None)
        return False
    known, since = _in_future.get(str(path), (None, now))
    if known != touched:
        if known is None:
            logger.warning(
                "%s was touched %.0f s in the future: a clock is off, of this host, of its holder's, or of the file "
                "system. It is taken over unless it is touched within %.0f s.",
                path,
                ahead,
                STALE_AFTER_S,
            )
        _in_future[str(path)] = touched, now
        return False
    return now - since > STALE_AFTER_S


#: Leases whose time is in the future: the time, and since when this process knows it.
_in_future: dict[str, tuple[int, float]] = {}


def _remove(path: Path) -> bool:
    """Removes the file of a lease that was seen to be abandoned; whether it was still that one.

    It is moved away first, which one process alone can: another that saw the same would remove the lease after it.
    """
    token, away = _holder(path).get("token"), temporary_path(path)
    try:
        os.rename(path, away)
    except FileNotFoundError:
        return False
    try:
        if _holder(away).get("token") == token:
            return True
        move_if_new(away, path)
        return False
    finally:
        with contextlib.suppress(OSError):
            away.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system, which may differ from this host's."""
    probe = temporary_path(path)
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
