"""What all tests share."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Until all is imported, as by the processes of a run (plugin/bootstrap.py).
gc.disable()

pytest_plugins = ["clustering_fixtures", "vissl_fixtures"]

# What VISSL does is read off what a run prints; what comes to the screen without it has tests of its own.
os.environ.setdefault("VISSL_CLUSTERFIT_VERBOSE", "1")


@pytest.fixture(autouse=True)
def _log_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends what a run in the process of the tests does to the log, in earlier tests or in the module's fixtures, too.

    It makes VISSL's log the root one and joins ours, and what is in the log would depend on which tests ran before.
    """
    monkeypatch.setattr(logging, "root", logging.Logger.root)
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.setLevel(logging.WARNING)
    logging.getLogger("vissl_clusterfit").setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers


@pytest.fixture(autouse=True, scope="module")
def _surroundings_of_its_own() -> Iterator[None]:
    """Ends what a module's tests and fixtures do to the environment, which processes of later tests would have, too."""
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_finish() -> None:
    """Python would look for garbage in all that was imported again and again, a quarter of what small tests take."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = _long_ones_first(items, getattr(config, "workerinput", {}).get("workercount", 1))
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


def _long_ones_first(items: list[pytest.Item], num_processes: int) -> list[pytest.Item]:
    """Tests in an order in which each process begins with its part of the modules that have slow ones.

    Each is given its part of the list from the start, and takes from others at the end, when only short ones are left:
    a long one that is begun last would run alone. Those of tools are the longest.
    """
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)

    def num_slow(path: Path) -> int:
        slow = sum(item.get_closest_marker("slow") is not None for item in modules[path])
        return slow * (10 if path.parent.name == "tools" else 1)

    parts: list[list[pytest.Item]] = [[] for _ in range(num_processes)]
    weights = [0] * num_processes
    for path in sorted(modules, key=num_slow, reverse=True):
        number = weights.index(min(weights)) if num_slow(path) else [*map(len, parts)].index(min(map(len, parts)))
        parts[number] += modules[path]
        weights[number] += num_slow(path)
    return [item for part in parts for item in part]
