"""Features as every protocol reads them: some rows at a time, checked, with their norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.search.threads import parallel_map

#: Values that are computed at a time: on a processor they stay in its cache.
PART_VALUES = {"cpu": 1 << 17, "cuda": 1 << 26}
#: A shorter row is one of norm zero: nothing is like it.
LEAST_NORM = 1e-12


class Rows(Protocol):
    """Features ``(num_samples, dim)``: an array, a tensor, or what reads a slice of rows as an array when asked."""

    @property
    def shape(self) -> Sequence[int]:
        """Samples and dimensions."""

    @property
    def ndim(self) -> int:
        """Two."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Any: ...


def read_rows(features: Rows, start: int, stop: int, device: str | torch.device) -> Tensor:
    """Some rows as a tensor on ``device``, of the type that they have."""
    block = features[start:stop]
    if isinstance(block, np.ndarray):
        # A memory-mapped array is read-only, which torch wraps only with a warning: copy the block.
        block = torch.from_numpy(np.ascontiguousarray(block) if block.flags.writeable else np.array(block, order="C"))
    return block.to(device)


def parts_of(rows: Tensor) -> list[slice]:
    """Some rows at a time: on a processor so few that they stay in its cache."""
    size = max(1, PART_VALUES[rows.device.type] // rows.shape[1])
    return [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]


def unit_rows(features: Rows, start: int, stop: int, device: str | torch.device, name: str) -> Tensor:
    """Some rows as float64 of unit norm, on ``device``; a row of norm zero stays zero.

    Raises:
        DataError: a row is not finite; ``name`` is what the message calls the features.
    """
    rows = read_rows(features, start, stop, device).double()
    _require_finite(rows.isfinite().all(dim=1), start, name)
    return normalize(rows, dim=1)


def row_norms(features: Rows, chunk: int, device: str | torch.device, name: str) -> Tensor:
    """Of all rows, ``(num_samples,)`` float64; ``chunk`` of them are read at a time.

    Raises:
        DataError: a row is not finite; ``name`` is what the message calls the features.
    """
    norms = []
    for start in range(0, len(features), chunk):
        rows = read_rows(features, start, start + chunk, device)
        norms.append(torch.cat(parallel_map(_norms, [rows[part] for part in parts_of(rows)])))
        _require_finite(norms[-1].isfinite(), start, name)
    return torch.cat(norms)


def require_device(device: str | torch.device) -> None:
    """Refuses a GPU where there is none.

    Raises:
        ConfigError: there is none.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(problem("device", found=f"{device}, but no GPU is usable here", allowed="cpu"))


def _norms(rows: Tensor) -> Tensor:
    return rows.double().norm(dim=1)


def _require_finite(finite: Tensor, start: int, name: str) -> None:
    if not finite.all():
        row = start + int(finite.logical_not().nonzero()[0, 0])
        raise DataError(problem(name, found=f"NaN or infinity in row {row}", allowed="finite features"))
