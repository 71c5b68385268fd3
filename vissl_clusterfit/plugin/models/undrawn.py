"""Networks that are built to be loaded: their constructors draw weights for as long as all else takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

#: Methods of a tensor, and functions of torch.nn.init, for which transformers puts others of the same name.
_DRAWING = {"kaiming_uniform_", "normal_", "uniform_"}


class Undrawn(TorchFunctionMode):
    """Leaves in a tensor whatever the memory has where a constructor would draw: for those that are loaded whole."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What the function gives; of one that draws into a tensor, that tensor as it is."""
        if getattr(func, "__name__", "") in _DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
