"""Which process holds or writes something, and whether it has died: what another process can tell from a file."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path


def this_process() -> dict[str, str | int]:
    """What tells this process from every other one: where its number counts, the number, and since when it has it."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pids": _namespace(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
    }


def has_died(process: Mapping[str, object]) -> bool:
    """Whether a process, as :func:`this_process` described it, has died. False where that can't be seen from here."""
    if not _is_of_this_host(process):
        return False
    if process.get("boot", _boot()) != _boot():
        return True  # a machine counts processes and ticks from the beginning when it starts
    # A number is given again to another process, which then was born later.
    pid = process.get("pid")
    return isinstance(pid, int) and _born(pid) != process.get("born")


def is_alive(process: Mapping[str, object]) -> bool:
    """Whether a process is seen to live, stopped ones included. False where that can't be seen from here."""
    return bool(process.get("born")) and _is_of_this_host(process) and not has_died(process)


def _is_of_this_host(process: Mapping[str, object]) -> bool:
    return (process.get("host"), process.get("pids")) == (socket.gethostname(), _namespace())


def process_name() -> str:
    """:func:`this_process` in a few characters, for the name of a file."""
    process = this_process()
    return f"{_place(process)}-{process['pid']}-{process['born']}"


def named_process_has_died(name: str) -> bool:
    """:func:`has_died` of what :func:`process_name` gave."""
    place, pid, born = name.split("-")
    here = this_process()
    return has_died({**here, "pid": int(pid), "born": born}) if place == _place(here) else False


def _place(process: Mapping[str, object]) -> str:
    return hashlib.sha256(f"{process['host']} {process['pids']}".encode()).hexdigest()[:8]


@functools.cache
def _boot() -> str:
    """Which start of this machine it is; "" where there is no /proc to ask."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""


def _namespace() -> str:
    """Containers may share a host's name while each counts its own processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process of this host started, in the kernel's ticks; "" if there is none (or no /proc to ask)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
