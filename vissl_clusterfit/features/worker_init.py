"""The processes of a data loader, which read images: none outlives its run, and none is lost without a word."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.queues
import os
import re
import shutil
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from torch._utils import ExceptionWrapper

from vissl_clusterfit.errors import DataError, problem

_SETTING = "config.DATA.NUM_DATALOADER_WORKERS"
_SHARED_MEMORY = "/dev/shm"
# What it says where there is no room; VISSL's collators put a batch there as they make it.
_NO_ROOM = re.compile(r"unable to (?:allocate shared memory|write to file|resize file|mmap|open shared memory)[^\n]*")
# What it says of a process that reads, with what ended it.
_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: [^.]*|exited unexpectedly)")


def end_with_parent(_: int) -> None:
    """Ends a process that reads images with the one that it reads for, at whatever moment that is killed.

    PyTorch has its parent's number looked at. That is a server's where processes are started by one, which lives on;
    and where the parent had died before the first look, it is that of the one who adopts orphans. They would wait for
    ever. And it reports what it cannot pass to it. A ``worker_init_fn``.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "images are read in processes of their own"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    # Python prints what a queue cannot send, and leaves it out: the other end would wait for it for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Any, error: Exception, item: Any) -> None:
    """Sends, in the place of a batch, that it cannot be sent."""
    if not isinstance(item, tuple) or len(item) != 2 or isinstance(item[1], ExceptionWrapper):
        traceback.print_exception(error)
        os._exit(1)  # the other end sees that, and says so
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    try:
        raise DataError(_text(f"a batch of images that cannot be passed on: {reason}"))
    except DataError:  # a wrapper has a traceback
        queue.put((item[0], ExceptionWrapper(where="in a process that reads images")))


def _text(found: str) -> str:
    room = ""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(_SHARED_MEMORY)
        room = f" ({_SHARED_MEMORY} has {usage.free >> 20} of {usage.total >> 20} MiB free)"
    return problem(
        _SETTING,
        found=f"{found.rstrip('.')}{room}",
        allowed="0, or processes that have the memory to hand images over",
        remedy=f"Set {_SETTING}=0 or a smaller batch, or give the run more shared memory (docker run --shm-size=8g) "
        "and no limit on the size of files (ulimit -f unlimited).",
    )


@contextlib.contextmanager
def lost_readers_told() -> Iterator[None]:
    """Has the loss of a process that reads images end a run as what the user can mend.

    Raises:
        DataError: one was killed, ended, or could not be started for want of shared memory.
    """
    try:
        yield
    except RuntimeError as error:
        if no_room := _NO_ROOM.search(str(error)):
            raise DataError(_text(f"a batch of images that cannot be passed on: {no_room[0]}")) from error
        lost = _LOST.search(str(error))
        if lost is None:
            raise
        how = lost[2].replace("is killed by signal: ", "was ended by a signal: ").replace("exited", "ended")
        memory = " The log of the system says whether memory was short: then take fewer of them."
        raise DataError(_text(f"a process that reads images, number {lost[1].strip()}, that {how}") + memory) from error
    except OSError as error:
        names = {frame.filename.rpartition(os.sep)[2] for frame in traceback.extract_tb(error.__traceback__)}
        if error.errno not in (errno.ENOSPC, errno.EFBIG) or "synchronize.py" not in names:
            raise
        raise DataError(_text(f"no room for what processes share: {error.strerror}")) from error
