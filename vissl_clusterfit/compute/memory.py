"""Memory that a process has used and freed, kept for its next batch."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST, _PAD_BYTES = 2**31 - 1, 1 << 28


def keep_all_freed_memory() -> bool:
    """Has the C library give no freed memory back to the system in this process; whether it can be told.

    On a CPU each step of a network allocates and frees gigabytes in large blocks. By default such a block comes from
    the system and goes back to it, and the kernel clears every page of the next one. The process then takes as much
    memory as its largest step, and somewhat more for what does not fit together. Searches keep blocks of a few MiB only
    (``search/threads.py``), as their memory is bounded.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all([set_option(_MMAP_MAX, 0), set_option(_TRIM_THRESHOLD, _LARGEST), set_option(_TOP_PAD, _PAD_BYTES)])
