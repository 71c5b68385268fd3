"""What the processes do that write to a disk: one that is full, read-only, or allows small files only."""

import ctypes
import inspect
import json
import os
import time
from pathlib import Path
from typing import Any

import stage_work
from tiny_store import contents

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage.atomic import write_file

#: How a process ends that may not mount anything.
CANNOT_MOUNT = 4
PAGE = 4096
_NEW_NAMESPACE, _NEW_USERS = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _PRIVATE = 0x1, 0x20, 0x44000


def write_slowly(path: Path, begun) -> None:
    """Begins to write a file, says so, and never comes to its end."""

    def write(file) -> None:
        file.write(b"half")
        file.flush()
        begun.set()
        time.sleep(600)

    write_file(path, write)


class SmallDisk:
    """A file system of its own for this process, which ends with it."""

    def __init__(self, folder: Path, num_pages: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._folder = folder
        self._filler = folder / "filler"
        users = os.geteuid() != 0
        me = (os.geteuid(), os.getegid())
        self._call("unshare", _NEW_NAMESPACE | (_NEW_USERS if users else 0))
        if users:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {me[0]} 1")
            Path("/proc/self/gid_map").write_text(f"0 {me[1]} 1")
        self._call("mount", None, b"/", None, _PRIVATE, None)
        options = f"size={num_pages * PAGE}".encode()
        self._call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options)

    def _call(self, name: str, *args: Any) -> None:
        if getattr(self._libc, name)(*args):
            os._exit(CANNOT_MOUNT)

    def leave(self, num_pages: int) -> None:
        """Fills the disk but for so much."""
        free = os.statvfs(self._folder).f_bavail
        self._filler.write_bytes(b"x" * PAGE * (free - num_pages))

    def make_room(self) -> None:
        self._filler.unlink()

    def set_read_only(self, read_only: bool) -> None:
        self._call("mount", None, os.fsencode(self._folder), None, _REMOUNT | (_READ_ONLY if read_only else 0), None)


def do(stage: str, folder: Path, store: Path, codebook: Path) -> None:
    """One of the stages, in this process."""
    work = {
        "extract": lambda: stage_work.extract(folder, stage_work.COUNT),
        "cluster": lambda: stage_work.cluster(store, folder),
        "label": lambda: stage_work.label(store, codebook, folder, max_distance=stage_work.MAX_DISTANCE),
    }
    work[stage]()


def message(*args: Any) -> str:
    """The one with which a stage stops; "" if it comes to its end."""
    try:
        do(*args)
    except ArtifactError as error:
        return str(error)
    return ""


def on_full_disk(stage: str, disk_folder: Path, store: Path, codebook: Path, answer: Path) -> None:
    """Does a stage with more and more room, until there is enough; and each time again, when room has been made.

    Writes a list of what happened: message, temporary files that are left, and what is there in the end.
    """
    disk, happened = SmallDisk(disk_folder, 100), []
    while not happened or happened[-1]["message"]:
        folder = disk_folder / f"{len(happened)}"
        disk.leave(len(happened))
        said = message(stage, folder, store, codebook)
        left = [str(path) for path in folder.rglob(".*")]
        disk.make_room()
        do(stage, folder, store, codebook)
        happened.append({"message": said, "left": left, "contents": contents(folder)})
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    answer.write_text(json.dumps(happened))


def on_read_only_disk(stage: str, disk_folder: Path, store: Path, codebook: Path, answer: Path) -> None:
    """Does a stage where nothing can be written, and again where it can."""
    disk, folder = SmallDisk(disk_folder, 100), disk_folder / "made"
    folder.mkdir()
    disk.set_read_only(True)
    said = message(stage, folder, store, codebook)
    disk.set_read_only(False)
    do(stage, folder, store, codebook)
    if stage == "extract":
        disk.set_read_only(True)
        do(stage, folder, store, codebook)  # what is complete is only read
    answer.write_text(json.dumps([{"message": said, "left": [], "contents": contents(folder)}]))


def do_with_limit(max_bytes: int, *args: Any) -> None:
    """One of the stages, where no file may grow beyond."""
    stage_work.limit_file_size(max_bytes)
    do(*args)


def write_much(path: Path) -> None:
    """Writes more than is allowed."""
    stage_work.limit_file_size(PAGE)
    write_file(path, lambda file: file.write(b"x" * 10 * PAGE))


def save_checkpoint_on_full_disk(folder: Path, answer: Path) -> None:
    """Saves a checkpoint as VISSL does, then a larger one for which there is no room, and that again when there is.

    Writes the message, the names that are there after it, whether the first one is as it was, and the last one's size.
    """
    import torch
    from classy_vision.generic.util import save_checkpoint

    from vissl_clusterfit.plugin.training.checkpoints import saved_whole

    save = saved_whole(inspect.unwrap(save_checkpoint))  # wrapped already, where the plugin was imported
    disk = SmallDisk(folder, 400)
    first = Path(save(str(folder), {"weights": torch.zeros(100)}, "model_phase0.torch"))
    before, said = first.read_bytes(), ""
    disk.leave(20)
    try:
        save(str(folder), {"weights": torch.zeros(100_000)}, "model_phase1.torch")
    except ArtifactError as error:
        said = str(error)
    there = sorted(path.name for path in folder.iterdir())
    disk.make_room()
    second = Path(save(str(folder), {"weights": torch.ones(100_000)}, "model_phase1.torch"))
    total = float(torch.load(second)["weights"].sum())
    answer.write_text(json.dumps([said, there, first.read_bytes() == before, total]))
