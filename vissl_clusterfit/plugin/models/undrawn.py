"""Networks that are built to be loaded: their constructors draw weights for as long as all else takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.init import constant_
from torch.overrides import TorchFunctionMode


def _normal(tensor: torch.Tensor, mean: float = 0.0, *_: Any, **__: Any) -> torch.Tensor:
    return constant_(tensor, mean)


def _kaiming_uniform(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return constant_(tensor, 0.0)


#: By name: methods of a tensor, and functions of torch.nn.init, for which transformers puts others.
_IN_PLACE_OF = {"kaiming_uniform_": _kaiming_uniform, "normal_": _normal}


class Undrawn(TorchFunctionMode):
    """Fills a tensor with the mean where a constructor would draw it: for networks that are loaded whole.

    Whatever the memory has would not do: PyTorch draws a truncated distribution until all is between its bounds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What the function gives; of one that draws into a tensor, that tensor, filled with the mean."""
        return _IN_PLACE_OF.get(getattr(func, "__name__", ""), func)(*args, **(kwargs or {}))
