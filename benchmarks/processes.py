"""Work measured in a process of its own: its seconds, and its peak of memory above what it holds when idle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def in_own_process(script: str, *arguments: str) -> dict:
    """Runs a script that ends with the line that :func:`measured` prints; what the line says."""
    ended = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.strip().splitlines()[-1])


def measured(work: Callable[[], object]) -> None:
    """Runs ``work`` once, after all imports, and prints ``{"seconds", "mebibytes", "idle_mebibytes"}``."""
    idle = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "mebibytes": _resident("VmHWM") - idle, "idle_mebibytes": idle}))


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found, f"the kernel does not say {field}"
    return int(found[1]) / 1024
