"""Tensors that say they are on a CUDA device and have values, where there is no such device.

PyTorch's fake tensors have no values, so what depends on them (which centroids are candidates, how many neighbours
there are) does not run on them. These compute on the processor. An operation on tensors of both devices raises, as it
would on a card, and everything for which the processor would wait for the card is counted.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from vissl_clusterfit.search import threads, torch_search

CARD, PROCESSOR = torch.device("cuda", 0), torch.device("cpu")
#: Bytes of the card, all of which are free.
MEMORY = 140 << 30
#: Operations whose result the processor needs before it can continue.
_WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "masked_select",
    "unique_dim",
    "_unique2",
    "bincount",
    "is_nonzero",
)
_COPIES = ("_to_copy", "copy_")


class OnCard(torch.Tensor):
    """A tensor of the pretended card; ``values`` is on the processor."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda _: CARD)
    is_cuda = property(lambda _: True)

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "OnCard":
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=PROCESSOR,
            dispatch_device=True,
        )
        self.values = values
        return self

    def __repr__(self) -> str:
        return f"OnCard({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} of a tensor on a card that is not there any more")


def _asking_for_a_card(method: Any) -> Any:
    @functools.wraps(method)
    def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        before = _changing.set(True)
        try:
            return method(tensor, *args, **kwargs)
        finally:
            _changing.reset(before)

    return call


#: Whether a tensor is being changed into another type or onto another device.
_changing: ContextVar[bool] = ContextVar("changing", default=False)
for _name in ("to", "cpu", "cuda", "type", "type_as", "float", "double", "half", "bfloat16", "long", "int", "bool"):
    setattr(OnCard, _name, _asking_for_a_card(getattr(torch.Tensor, _name)))


class PretendedCard(TorchDispatchMode):
    """Attributes: waits: how often the processor has waited, by operation."""

    def __init__(self, *, has_backward: bool = False) -> None:
        super().__init__()
        self.has_backward = has_backward
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            # Backward passes look for a driver for what is on a card; they alone ask outside of what changes tensors.
            is_told = _changing.get() or not self.has_backward
            return CARD if isinstance(args[0], OnCard) and is_told else PROCESSOR
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_card = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
        others = [tensor for tensor in tensors if not isinstance(tensor, OnCard) and tensor.ndim]
        if on_card and others and name not in _COPIES:
            raise RuntimeError(f"{name}: tensors on two devices, {CARD} and {PROCESSOR}")
        wanted = kwargs.get("device")
        to_card = torch.device(wanted).type == "cuda" if wanted is not None else bool(on_card)
        if wanted is not None:
            kwargs["device"] = PROCESSOR
        pinned = kwargs.pop("pin_memory", None)
        assert not (pinned and to_card), "memory of a card cannot be pinned"
        self._count(name, args, kwargs, to_card, bool(on_card))
        found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if func._schema.is_mutable and not func._schema.name.startswith("aten::_"):
            if (given := kwargs.get("out")) is not None:
                return given
            if tensors and name.endswith("_"):
                return args[0]
        return tree_map(_on_card, found) if to_card else found

    def _count(self, name: str, args: Any, kwargs: Any, to_card: bool, from_card: bool) -> None:
        if name in _WAITS and from_card:
            self.waits[name] += 1
        elif name in ("index", "index_put_", "index_put") and from_card:  # a mask becomes indices first
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            self.waits.update(["index by a mask"] * len(masks))
        elif name == "_to_copy" and from_card and not to_card and not kwargs.get("non_blocking"):
            self.waits["copy to the processor"] += 1
        elif name == "copy_" and isinstance(args[1], OnCard) and not isinstance(args[0], OnCard):
            blocks = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            self.waits.update(["copy to the processor"] * blocks)


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, OnCard) else leaf


def _on_card(leaf: Any) -> Any:
    return OnCard(leaf) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnCard) else leaf


class _Stream:
    """Of a card that does all at once."""

    def __init__(self, *_: Any) -> None:
        pass

    def wait_stream(self, _: Any) -> None:
        pass

    def wait_event(self, _: Any) -> None:
        pass


class _Event:
    def record(self, _: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextlib.contextmanager
def pretended_card(monkeypatch: Any, *, has_backward: bool = False) -> Iterator[PretendedCard]:
    """As if there were a card, for all that is done in the block; with backward passes only where it is said."""
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"PyTorch {torch.__version__} has no streams and events of a card that is not there")
    torch._C._ensureCUDADeviceGuardSet()
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(cuda, "mem_get_info", lambda *_: (MEMORY, MEMORY))
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(cuda, name, lambda *_, **__: 0)
    monkeypatch.setattr(cuda, "memory_summary", lambda *_, **__: "")
    monkeypatch.setattr(cuda, "Stream", _Stream)
    monkeypatch.setattr(cuda, "Event", _Event)
    monkeypatch.setattr(cuda, "current_stream", lambda *_: _Stream())
    monkeypatch.setattr(cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(OnCard, "record_stream", lambda *_: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
    # Modules move their parameters by giving tensors other values, which are not the attribute of these.
    torch.__future__.set_swap_module_params_on_conversion(True)
    card = PretendedCard(has_backward=has_backward)
    take_part = threads._Turns.take_part

    def take_part_on_card(turns: Any) -> None:  # what is pretended is so in one thread
        with card:
            take_part(turns)

    monkeypatch.setattr(threads._Turns, "take_part", take_part_on_card)
    torch_search.fast_product_type.cache_clear()
    try:
        # Its library's batch norm is an operation of its own, which a processor does not have.
        with torch.backends.cudnn.flags(enabled=False), card:
            yield card
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
        torch_search.fast_product_type.cache_clear()
