"""Memory that a process has used and freed, kept for its next batch."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from vissl_clusterfit.search.threads import give_back_memory

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_LARGEST, _PAD_BYTES = 2**31 - 1, 1 << 28
# What glibc begins with, but for the thresholds: those that it has come to where large blocks were freed.
_USUAL = {_MMAP_MAX: 1 << 16, _TOP_PAD: 1 << 17, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


def keep_all_freed_memory() -> bool:
    """Has the C library give no freed memory back to the system in this process; whether it can be told.

    On a CPU each step of a network allocates and frees gigabytes in large blocks. By default such a block comes from
    the system and goes back to it, and the kernel clears every page of the next one. The process then takes as much
    memory as its largest step, and somewhat more for what does not fit together. Searches keep blocks of a few MiB only
    (``search/threads.py``), as their memory is bounded.
    """
    return _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST, _TOP_PAD: _PAD_BYTES})


@contextlib.contextmanager
def all_freed_memory_kept() -> Iterator[None]:
    """The same for the time of a block; what is kept goes back to the system at its end."""
    keep_all_freed_memory()
    try:
        yield
    finally:
        _set(_USUAL)
        give_back_memory()


def _set(options: dict[int, int]) -> bool:
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return {set_option(option, value) for option, value in options.items()} == {1}
