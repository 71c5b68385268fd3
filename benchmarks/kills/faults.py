"""What befalls a run: signals to one or all of its processes, a stop for a while, a full disk, files cut to half."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from kills import forks
from kills.compare import is_log

GROUP, LAUNCHER, RANK, WORKER = "group", "launcher", "rank", "data worker"
FULL_DISK, CUT_FILES, STOP = "full disk", "SIGKILL and cut files", "SIGSTOP"
_KILL, _TERM, _INT = "SIGKILL", "SIGTERM", "SIGINT"
#: How often each is drawn, where a run has such processes.
_SHARES = {
    (GROUP, _KILL): 16,
    (GROUP, _TERM): 8,
    (GROUP, _INT): 8,
    (GROUP, STOP): 5,
    (GROUP, FULL_DISK): 10,
    (GROUP, CUT_FILES): 12,
    (LAUNCHER, _KILL): 8,
    (LAUNCHER, _TERM): 6,
    (LAUNCHER, _INT): 6,
    (RANK, _KILL): 8,
    (RANK, _TERM): 4,
    (RANK, _INT): 4,
    (RANK, STOP): 4,
    (WORKER, _KILL): 8,
    (WORKER, _TERM): 4,
    (WORKER, STOP): 3,
}
_STOPPED_S = (0.1, 1.5)
_NEW_NAMESPACE, _PRIVATE, _DETACH = 0x00020000, 0x44000, 2
_DISK_BYTES = 64 << 20
_LONGEST_FILE = 2000


@dataclass(frozen=True)
class Fault:
    """One of the things that may befall a run."""

    victim: str
    kind: str

    @property
    def name(self) -> str:
        """For the counts."""
        return self.kind if self.kind in (FULL_DISK, CUT_FILES) else f"{self.kind} to {self.victim}"

    @property
    def ends(self) -> bool:
        """Whether the run ends by it, in general."""
        return self.kind != STOP


def draw(dice: random.Random, *, has_ranks: bool, has_workers: bool) -> Fault:
    """A fault that such a run may meet."""
    absent = {*(() if has_ranks else (RANK,)), *(() if has_workers else (WORKER,))}
    shares = {key: share for key, share in _SHARES.items() if key[0] not in absent}
    return Fault(*dice.choices(list(shares), list(shares.values()))[0])


def victims(fault: Fault, launcher: int) -> list[int]:
    """The processes of a run that a fault may hit one of; for the group, its number."""
    if fault.victim in (GROUP, LAUNCHER):
        return [launcher]
    alive = forks.descendants()
    workers = [process for process, (_, name) in alive.items() if name == "pt_data_worker"]
    if fault.victim == WORKER:
        return sorted(workers)
    servers = {process for process, (parent, name) in alive.items() if name == forks.FORKSERVER and parent == launcher}
    return sorted(
        process
        for process, (parent, name) in alive.items()
        if process not in workers and (parent in servers or (parent == launcher and name == forks.SPAWNED))
    )


def strike(fault: Fault, victim: int, disk: Disk, dice: random.Random) -> None:
    """Does it. A process that has ended meanwhile is left in peace."""
    send = os.killpg if fault.victim == GROUP else os.kill
    with contextlib.suppress(ProcessLookupError):
        if fault.kind == FULL_DISK:
            disk.fill(victim)
        elif fault.kind == STOP:
            send(victim, signal.SIGSTOP)
            time.sleep(dice.uniform(*_STOPPED_S))
            send(victim, signal.SIGCONT)
        else:
            send(victim, signal.SIGKILL if fault.kind == CUT_FILES else signal.Signals[fault.kind])


class Disk:
    """A small file system that ends with this process and its children; or a folder, where none can be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._filler = folder / "filler"
        libc = ctypes.CDLL(None, use_errno=True)
        size = f"size={_DISK_BYTES}".encode()
        self.is_small = (
            not libc.unshare(_NEW_NAMESPACE)
            and not libc.mount(None, b"/", None, _PRIVATE, None)
            and not libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size)
        )

    def fill(self, victim: int) -> None:
        """Leaves no room; where the disk is not small, no file of the victim may grow any more."""
        if not self.is_small:
            resource.prlimit(victim, resource.RLIMIT_FSIZE, (_LONGEST_FILE, _LONGEST_FILE))
            return
        with self._filler.open("ab") as file:
            while free := os.statvfs(self.folder).f_bavail:
                with contextlib.suppress(OSError):  # somebody else took it
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free * os.statvfs(self.folder).f_bsize)

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Takes the file system away with all that is on it; the folder stays."""
        if self.is_small:
            ctypes.CDLL(None).umount2(os.fsencode(self.folder), _DETACH)


def cut_newest_files(folder: Path, dice: random.Random) -> list[Path]:
    """Cuts one or two of the files that were written last to half of their length, as a dying machine leaves them."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size]
    files.sort(key=lambda path: path.stat().st_mtime_ns)
    last_checkpoint = next((path for path in reversed(files) if path.suffix == ".torch"), None)
    newest = [
        path
        for path in files
        # What nobody reads any more: checkpoints before the last, the records of shards whose store is complete.
        if not (is_log(path) or (path.suffix == ".torch" and path != last_checkpoint) or _is_record_of_complete(path))
    ][-3:]
    cut = dice.sample(newest, min(len(newest), dice.choice([1, 1, 2])))
    for path in cut:
        os.truncate(path, path.stat().st_size // 2)
    return cut


def _is_record_of_complete(path: Path) -> bool:
    manifest = path.parent / "manifest.json"
    is_record = path.name.startswith("rows-") and path.suffix == ".json"
    return is_record and manifest.is_file() and b'"complete": true' in manifest.read_bytes()
