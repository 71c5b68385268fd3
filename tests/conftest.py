"""What all tests share."""

import gc
import logging
import os
from collections.abc import Iterator

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
    # Those of the quickstarts take minutes each: begun last, one process would run them while the others have no more.
    items.sort(key=lambda item: item.path.parent.name != "tools")
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))
