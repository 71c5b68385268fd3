import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from vissl_clusterfit.compat import import_hooks
from vissl_clusterfit.compat.import_hooks import around_import


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes a module that can be imported, in a world that has never been asked to do anything about it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(import_hooks._FINDER, "wanted", {})

    def write(source: str) -> str:
        (tmp_path / "waited_for.py").write_text(source)
        importlib.invalidate_caches()
        return "waited_for"

    yield write
    sys.modules.pop("waited_for", None)


class Recorder:
    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def around(self, module: ModuleType) -> Iterator[None]:
        self.events.append(f"before: {hasattr(module, 'value')}")
        try:
            yield
        finally:
            self.events.append(f"after: {getattr(module, 'value', None)}")


def test_runs_around_the_code_of_the_module(write_module):
    recorder, name = Recorder(), write_module("value = 1")
    around_import(name, recorder.around)
    assert recorder.events == []
    importlib.import_module(name)
    assert recorder.events == ["before: False", "after: 1"]


def test_asking_twice_is_asking_once(write_module):
    recorder, name = Recorder(), write_module("value = 1")
    around_import(name, recorder.around)
    finders = list(sys.meta_path)
    around_import(name, recorder.around)
    importlib.import_module(name)
    assert len(recorder.events) == 2
    assert sys.meta_path == finders


def test_runs_again_when_the_module_is_reloaded(write_module):
    recorder, name = Recorder(), write_module("value = 1")
    around_import(name, recorder.around)
    importlib.reload(importlib.import_module(name))
    assert recorder.events == ["before: False", "after: 1", "before: True", "after: 1"]


def test_the_module_looks_as_if_nothing_had_happened(write_module):
    name = write_module("value = 1\n")
    around_import(name, Recorder().around)
    spec = importlib.util.find_spec(name)
    assert spec.loader.get_source(name) == "value = 1\n"
    module = importlib.import_module(name)
    assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader
    assert inspect.getsource(module) == "value = 1\n"


def test_an_error_of_the_module_comes_through(write_module):
    recorder, name = Recorder(), write_module("raise ValueError('of its own')")
    around_import(name, recorder.around)
    with pytest.raises(ValueError, match="of its own"):
        importlib.import_module(name)
    assert recorder.events == ["before: False", "after: None"]
    assert name not in sys.modules


def test_a_module_that_is_not_there_is_still_not_found(write_module):
    recorder = Recorder()
    around_import("no_such_module_of_a_test", recorder.around)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_a_test"):
        importlib.import_module("no_such_module_of_a_test")
    assert recorder.events == []
