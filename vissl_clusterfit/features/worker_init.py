"""The processes of a data loader, which read images."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent(_: int) -> None:
    """Ends a process that reads images with the one that it reads for, at whatever moment that is killed.

    PyTorch has its parent's number looked at. That is a server's where processes are started by one, which lives on;
    and where the parent had died before the first look, it is that of the one who adopts orphans. They would wait for
    ever. A ``worker_init_fn``.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "images are read in processes of their own"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
