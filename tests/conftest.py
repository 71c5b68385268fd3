"""What all tests share."""

import gc
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Until all is imported, as by the processes of a run (plugin/bootstrap.py).
gc.disable()

# The repairs first, which have PyTorch import its compiler where something is compiled.
pytest_plugins = ["vissl_fixtures", "clustering_fixtures"]

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

    Each is given its share of the list at the start, and takes from the end of another's when it has no more: that must
    be short ones, as a long one that is begun last runs alone. Those of tools take minutes: they are dealt out first.
    """
    modules: dict[Path, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: item.path.parent.name != "tools"):
        modules.setdefault(item.path, []).append(item)
    is_long = {path: any(item.get_closest_marker("slow") for item in of_it) for path, of_it in modules.items()}
    long_ones = [of_it for path, of_it in modules.items() if is_long[path]]
    others = iter([item for path, of_it in modules.items() if not is_long[path] for item in of_it])
    ordered: list[pytest.Item] = []
    for number in range(num_processes):
        part = [item for of_it in long_ones[number::num_processes] for item in of_it]
        share = (len(items) - len(ordered)) // (num_processes - number)  # as xdist deals them out
        ordered += [*part, *itertools.islice(others, max(share - len(part), 0))]
    return [*ordered, *others]
