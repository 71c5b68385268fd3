"""``Compute``: how a network computes, as it was chosen, and what that does to the network, its batches and manifests.

``PLAIN`` is float32 as PyTorch has it by itself. Manifests of features that were computed so do not mention it, as
those of releases that knew nothing else do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.errors import ConfigError, problem

#: The key of a manifest's inputs.
KEY = "compute"
SETTING = "config.CLUSTERFIT.COMPUTE"
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Compute:
    """How a network computes.

    Attributes:
        precision: float32, bfloat16 or float16, of products; norms and sums are computed in float32 where PyTorch's
            autocast does so.
        channels_last: whether images and weights have their channels last in memory.
        compiled: whether networks are compiled.

    Examples:
        >>> import torch
        >>> from vissl_clusterfit.compute.chosen import Compute
        >>> compute, network = Compute("bfloat16", channels_last=True), torch.nn.Conv2d(3, 8, 3)
        >>> compute.arrange(network)
        >>> with compute.autocast("cpu"):
        ...     maps = network(compute.arranged(torch.zeros(2, 3, 8, 8)))
        >>> maps.dtype, maps.is_contiguous(memory_format=torch.channels_last)
        (torch.bfloat16, True)
    """

    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of products."""
        return _TYPES[self.precision]

    def autocast(self, device: str | torch.device) -> AbstractContextManager[Any]:
        """The context in which a network computes; none for float32."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(device).type, dtype=self.dtype)

    def arrange(self, network: nn.Module) -> None:
        """Puts the weights of a network, and what it keeps besides, into the memory format."""
        if self.channels_last:
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data = self.arranged(tensor.data)

    def arranged(self, images: torch.Tensor) -> torch.Tensor:
        """A batch of images (B, C, H, W) or clips (B, C, T, H, W) in the memory format; of other ranks, contiguous."""
        of_rank = _FORMATS.get(images.ndim, torch.contiguous_format)
        return images.contiguous(memory_format=of_rank if self.channels_last else torch.contiguous_format)

    def inputs(self) -> dict[str, Any]:
        """What a manifest says: ``{"compute": {…}}``; nothing where it is plain."""
        if self == PLAIN:
            return {}
        return {
            KEY: {"precision": self.precision, "channels_last": self.channels_last, "compile": self.compiled},
        }

    @classmethod
    def of_inputs(cls, inputs: Mapping[str, Any]) -> Compute:
        """What the inputs of a manifest say; plain, where they say nothing."""
        found = inputs.get(KEY) or {}
        return cls(
            str(found.get("precision", "float32")),
            bool(found.get("channels_last", False)),
            bool(found.get("compile", False)),
        )

    def __str__(self) -> str:
        """For the log: ``bfloat16, channels last``."""
        more = (", channels last" if self.channels_last else "") + (", compiled" if self.compiled else "")
        return self.precision + more


PLAIN = Compute()


def require_possible(compute: Compute, device: str | torch.device, setting: str = SETTING) -> None:
    """Refuses what PyTorch does not compute, or only by emulation, on a device.

    Raises:
        ConfigError: float16 on a processor without units for it, or a precision that PyTorch does not know.
    """
    kind = torch.device(device).type
    if compute.precision not in _TYPES:
        raise ConfigError(
            problem(f"{setting}.PRECISION", found=repr(compute.precision), allowed=" | ".join(map(repr, _TYPES)))
        )
    if kind == "cpu" and compute.precision == "float16" and not has_units("float16", kind):
        raise ConfigError(
            problem(
                f"{setting}.PRECISION",
                found="float16 on a processor without units for it, which takes many times as long as float32",
                allowed="auto, float32 or bfloat16",
            )
        )


def has_units(precision: str, device: str | torch.device) -> bool:
    """Whether PyTorch says of a device that it computes products in a precision."""
    if precision == "float32":
        return True
    if torch.device(device).type == "cpu":
        one_dnn = torch.ops.mkldnn
        return one_dnn._is_mkldnn_bf16_supported() if precision == "bfloat16" else one_dnn._is_mkldnn_fp16_supported()
    return precision == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
