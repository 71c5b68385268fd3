"""Something to do around the import of a module, without importing it: one finder for all of ``compat``.

A repair of NumPy, PyTorch or VISSL needs the module that it repairs. To import that for the repair would cost
every process seconds, even one that never uses it; so the repair waits for its import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Around = Callable[[ModuleType], AbstractContextManager[Any]]


def around_import(module_name: str, around: Around) -> None:
    """Enters ``around(module)`` before the code of that module runs, and leaves it after; at a reload again.

    Asking twice for the same is asking once. A module that is already imported is left as it is.
    """
    wanted = _FINDER.wanted.setdefault(module_name, [])
    if around not in wanted:
        wanted.append(around)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder:
    """Finds what the finders after it find, and wraps the loader of the modules that repairs wait for."""

    def __init__(self) -> None:
        self.wanted: dict[str, list[Around]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.wanted:
            return None
        # Only those after this one: a finder of the same kind before it has just asked, and would ask again.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self.wanted[fullname])
                return spec
        return None


class _Loader:
    """A loader with something around the running of the module; in everything else, the one that it wraps."""

    def __init__(self, loader: Any, arounds: list[Around]) -> None:
        self._loader = loader
        self._arounds = arounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever looks at the module later (inspect, importlib.resources) sees the loader that it knows.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with ExitStack() as stack:
            for around in self._arounds:
                stack.enter_context(around(module))
            self._loader.exec_module(module)


_FINDER: Any = _Finder()
