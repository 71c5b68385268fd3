"""PyTorch's compiler, imported where something is compiled and not where PyTorch's parts only say that they are not.

``torch._dynamo`` takes as long to import as half of all else that a run imports. torchvision asks it which devices it
knows, and marks a function that it must leave alone; so does every optimizer at its first step, and each process of
several asks it how it takes apart their network. Nothing of that has an effect before the compiler is there. So here
each such function asks first whether it is, at each call.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from vissl_clusterfit.compat.import_hooks import around_import

_COMPILER = "torch._dynamo"
_DEVICES = "torch._dynamo.utils"


def import_compiler_on_demand() -> None:
    """Has the modules that import the compiler for nothing wait with that; those already imported stay as they are."""
    around_import("torch._compile", _marks_without_import)
    around_import("torch.compiler", _decorator_without_import)
    around_import("torch.optim.optimizer", _steps_without_import)
    around_import("torch.nn.parallel.distributed", _processes_without_import)
    around_import("torchvision.ops.roi_align", _devices_without_import)


def _is_there() -> bool:
    return _COMPILER in sys.modules


@contextmanager
def _marks_without_import(module: Any) -> Iterator[None]:
    """``_disable_dynamo``: what it wraps is called as it is while there is no compiler."""
    yield
    mark = module._disable_dynamo

    def _disable_dynamo(fn: Callable[..., Any] | None = None, recursive: bool = True) -> Any:
        if fn is None:
            return functools.partial(_disable_dynamo, recursive=recursive)
        marked = mark(fn, recursive)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (marked if _is_there() else fn)(*args, **kwargs)

        return call

    module._disable_dynamo = _disable_dynamo


@contextmanager
def _decorator_without_import(module: Any) -> Iterator[None]:
    """``torch.compiler.disable`` of a function: as ``_disable_dynamo``, which gives the same."""
    yield
    disable = module.disable

    @functools.wraps(disable)
    def disable_later(fn: Any = None, recursive: bool = True, **more: Any) -> Any:
        if isinstance(fn, FunctionType) and not _is_there():
            return sys.modules["torch._compile"]._disable_dynamo(fn, recursive)
        return disable(fn, recursive, **more)

    module.disable = disable_later


@contextmanager
def _steps_without_import(module: Any) -> Iterator[None]:
    """The ``step`` of optimizers: where there is no compiler, there is no graph of it that would have to break."""
    yield
    wrap = module._use_grad_for_differentiable
    torch = sys.modules["torch"]

    def _use_grad_for_differentiable(step: Callable[..., Any]) -> Callable[..., Any]:
        compilable = wrap(step)

        @functools.wraps(step)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _is_there():
                return compilable(*args, **kwargs)
            with torch.set_grad_enabled(args[0].defaults["differentiable"]):
                return step(*args, **kwargs)

        return call

    module._use_grad_for_differentiable = _use_grad_for_differentiable


class _DefaultsOfCompiler(ModuleType):
    """Stands for the compiler: how it takes apart networks of several processes where nobody has set that."""

    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(_COMPILER), name)


@contextmanager
def _processes_without_import(module: Any) -> Iterator[None]:
    """``DistributedDataParallel``, whose sums are other ones in a mode that only the compiler itself can be set to."""
    yield
    its_class, torch = module.DistributedDataParallel, sys.modules["torch"]
    begin = its_class.__init__

    @functools.wraps(begin)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if _is_there():
            return begin(self, *args, **kwargs)
        stand_in: Any = _DefaultsOfCompiler(_COMPILER)
        torch._dynamo = stand_in
        try:
            begin(self, *args, **kwargs)
        finally:
            if vars(torch).get("_dynamo") is stand_in:
                del torch._dynamo

    its_class.__init__ = __init__


@contextmanager
def _devices_without_import(_module: ModuleType) -> Iterator[None]:
    """What torchvision imports of the compiler, found when it is called."""
    if _is_there():
        yield
        return
    stand_in: Any = ModuleType(_DEVICES)
    stand_in.is_compile_supported = _is_compile_supported
    sys.modules[_DEVICES] = stand_in
    try:
        yield
    finally:
        del sys.modules[_DEVICES]


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)
