"""Results that are kept, so that a run that is started again goes on: one small file for each piece of work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.storage import artifacts


def array_hash(array: np.ndarray) -> str:
    """The SHA-256 of an array's type, shape and values."""
    head = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


class ResultCache:
    """What is done already, each with the hash of what it was made from.

    Args:
        folder: Where the files lie.
        inputs: What all of it is made from, as JSON takes it.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self._folder = folder
        self._inputs = dict(inputs)

    def get(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What is there under ``name``, made from the same; else what ``make`` gives (for JSON), which is kept."""
        made_from = artifacts.content_hash({**self._inputs, **inputs})
        path = self._folder / f"{name}.json"
        if path.is_file():
            content = artifacts.read_json(path)
            if content.get("made_from") == made_from:
                return content["result"]
        result = make()
        self._folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(path, {"made_from": made_from, "result": result})
        return result
