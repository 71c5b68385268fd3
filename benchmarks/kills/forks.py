"""Commands in separate processes, forked from this one, which has imported VISSL; and what descends from it.

A fresh interpreter spends seconds on imports, and a thousand kills need a thousand starts. So the command is forked,
and so is whatever it would start as another interpreter: ranks, data workers by spawn or forkserver, the processes of a
study. A forked one begins as an interpreter does: signals, log, standard streams and descriptors are as after ``exec``;
it has its own process number and its real parent, and really dies.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import logging
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pkgutil
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import vissl_clusterfit

_SET_NAME, _SET_SUBREAPER = 15, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl
#: What is said of a process by its name: what its first code was.
COMMAND, SPAWNED, FORKSERVER, TRACKER = "command", "spawned", "forkserver", "tracker"
_NAMES = {"spawn": SPAWNED, "forkserver": FORKSERVER, "resource_tracker": TRACKER}
_run_at_exit = atexit._run_exitfuncs


def prepare() -> None:
    """Imports what the command needs, and calls :func:`fork_interpreters`. Once, before the first command."""
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (before VISSL)

    for name in ("vissl.engines", "vissl.hooks", "vissl.trainer", "vissl.utils.distributed_launcher", "sklearn.svm"):
        importlib.import_module(name)
    for package in ("launch", "plugin", "transfer", "study"):
        path = Path(vissl_clusterfit.__file__).parent / package
        for module in pkgutil.walk_packages([str(path)], f"vissl_clusterfit.{package}."):
            if not module.name.endswith("child_main"):  # which ignores signals
                importlib.import_module(module.name)
    fork_interpreters()


def fork_interpreters() -> None:
    """Has every interpreter that Python's multiprocessing starts, here and in what is forked from here, forked."""
    multiprocessing.util.spawnv_passfds = _fork_an_interpreter


def freeze() -> None:
    """A child that collects what it shares with its parent would copy it."""
    gc.collect()
    gc.freeze()


def adopt_orphans() -> None:
    """From now on, what loses its parent below this process becomes its child, and is seen by :func:`descendants`."""
    if _prctl(_SET_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this system does not let a process adopt orphans")


def start(overrides: Sequence[str], *, cwd: Path, streams: Sequence[int], environment: Mapping[str, str]) -> int:
    """Starts the command as the first process of a session; its number.

    Args:
        overrides: as on the command line.
        cwd: where it runs.
        streams: descriptors of its output and its errors.
        environment: its variables, all of them.
    """
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        for stream, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *streams]):
            os.dup2(descriptor, stream)
        # Python's own remember what the descriptors were before, such as whether they can seek.
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        _begin(COMMAND, ())
        from vissl_clusterfit.launch.main import main

        code = main(overrides)
        _end(code)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def _fork_an_interpreter(path: str, args: Sequence[str], passed: Sequence[int]) -> int:
    """Stands for ``multiprocessing.util.spawnv_passfds``: ``python … -c <code> …`` with these descriptors."""
    code = args[args.index("-c") + 1]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        _begin(_NAMES[code.split()[1].rsplit(".", 1)[1]], passed)
        sys.argv = ["-c", *args[args.index("-c") + 2 :]]
        status = 0
        try:
            exec(code, sys.modules["__main__"].__dict__)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        _end(status)
    finally:
        os._exit(70)


def _begin(name: str, passed: Sequence[int]) -> None:
    """Leaves behind what a process has of its parent's that a fresh interpreter would not have."""
    _prctl(_SET_NAME, name.encode(), 0, 0, 0)
    # Not closed: the parent's objects, which are here, too, would close the numbers again when others have them.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2, nothing, *passed}:
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            os.dup2(nothing, descriptor)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules.pop("__mp_main__", None)
    multiprocessing.resource_tracker._resource_tracker.__init__()
    multiprocessing.forkserver._forkserver.__init__()
    multiprocessing.util._finalizer_registry.clear()
    atexit._clear()
    atexit.register(multiprocessing.util._exit_function)
    logging.root.handlers.clear()
    logging.Logger.root.handlers.clear()
    tempfile.tempdir = None


def _end(code: int) -> None:
    """As an interpreter ends, but for the objects that all share: taking those apart would copy them."""
    try:
        _run_at_exit()
    except Exception:
        traceback.print_exc()  # which changes no exit code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def descendants() -> dict[int, tuple[int, str]]:
    """All that descends from this process and lives: the parent and the name of each."""
    found: dict[int, tuple[int, str]] = {}
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            with contextlib.suppress(OSError):
                before, _, after = Path("/proc", folder, "stat").read_text("utf-8", "replace").rpartition(")")
                state, parent = after.split()[:2]
                if state not in "ZX":
                    found[int(folder)] = (int(parent), before.partition("(")[2])
    family, size = {os.getpid()}, 0
    while size < len(family):
        size = len(family)
        family |= {process for process, (parent, _) in found.items() if parent in family}
    return {process: found[process] for process in family - {os.getpid()}}


def reap() -> dict[int, int]:
    """The exit codes of children that have ended, by their numbers."""
    codes = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])
    return codes


def poll(limit_s: float, interval_s: float = 0.004) -> Iterator[float]:
    """The seconds since now, again and again, until there are too many."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < limit_s:
        yield passed
        time.sleep(interval_s)
