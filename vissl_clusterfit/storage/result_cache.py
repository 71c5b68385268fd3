"""A cache of results, so that a run that is started again resumes: one small file for each piece of work."""

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
    """What is computed already, each result with the hash of what it was made from.

    Args:
        folder: Of the files.
        inputs: What all of it is made from, as JSON takes it.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self._folder = folder
        self._inputs = dict(inputs)

    def find(self, name: str, inputs: Mapping[str, Any]) -> Any:
        """The result ``name`` that was made from the same; None if there is none."""
        path = self._folder / f"{name}.json"
        content = artifacts.read_json(path) if path.is_file() else {}
        return content.get("result") if content.get("made_from") == self._hash(inputs) else None

    def store(self, name: str, inputs: Mapping[str, Any], result: Any) -> None:
        """Saves a result (for JSON, not None)."""
        self._folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(self._folder / f"{name}.json", {"made_from": self._hash(inputs), "result": result})

    def get(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The result ``name`` that was made from the same; else what ``make`` gives, which is saved."""
        result = self.find(name, inputs)
        if result is None:
            result = make()
            self.store(name, inputs, result)
        return result

    def _hash(self, inputs: Mapping[str, Any]) -> str:
        return artifacts.content_hash({**self._inputs, **inputs})
