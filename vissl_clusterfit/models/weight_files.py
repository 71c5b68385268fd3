"""Files of weights as they come: what is in them, and what of that are tensors with a name."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.untrusted import UnsafeFileError, require_regular, require_unpacked

# Where VISSL's checkpoints have the network that they are of.
_VISSLS_PLACES: tuple[tuple[str, ...], ...] = (("classy_state_dict", "base_model", "model"), ("base_model", "model"))
_PARTS = ("trunk", "heads")
_SHOWN = 5
_MOST_LEVELS = 4


@dataclass(frozen=True)
class WeightsSettings:
    """What the settings are called that a message about weights names; as they are, those of the teacher."""

    weights: str = "config.CLUSTERFIT.TEACHER.WEIGHTS"
    key: str = "config.CLUSTERFIT.TEACHER.STATE_DICT_KEY"
    prefix: str = "config.CLUSTERFIT.TEACHER.STATE_DICT_PREFIX"
    trust: str = "config.CLUSTERFIT.TEACHER.TRUST_WEIGHTS=true"
    model: str = "config.CLUSTERFIT.TEACHER.MODEL"
    layer: str = "config.CLUSTERFIT.FEATURES.LAYER_NAME"
    pooling: str = "config.CLUSTERFIT.FEATURES.POOLING"


OF_THE_TEACHER = WeightsSettings()


def load_state_dict(
    path: str,
    *,
    key: str = "",
    prefix: str = "",
    trusted: bool = False,
    settings: WeightsSettings = OF_THE_TEACHER,
) -> dict[str, torch.Tensor]:
    """Reads the tensors of a file, under dotted names: those of one place as they are, of several with the place.

    Args:
        path: a VISSL checkpoint, a torchvision or plain state dict, safetensors, TorchScript or a whole module.
        key: where the state dict is in the file, dotted; everything is looked at when it is empty.
        prefix: with which the names of the wanted network begin, with or without their place; "" for any.
        trusted: whether the file may run code when it is opened (Python's pickle, TorchScript).
        settings: what to call the settings.

    Raises:
        TeacherError: there is no such file, it is no checkpoint, it runs code and is not trusted, or it holds no
            tensors under ``key`` or of ``prefix``.
    """
    content = _read(path, trusted, settings)
    found = _descend(content, tuple(key.split("."))) if key else content
    places = dict(_places(found))
    if not places:
        where = f"under {key!r}" if key else "in any of the usual places"
        raise TeacherError(
            f"The weights file {path} holds no tensors {where}; it holds {_kinds(content)}. Name the place with "
            f"{settings.key}."
        )
    several = len(places) > 1
    names = {
        f"{place}.{name}" if several and place else name: (name, tensor)
        for place, tensors in places.items()
        for name, tensor in tensors.items()
    }
    wanted = {
        full: tensor for full, (name, tensor) in names.items() if full.startswith(prefix) or name.startswith(prefix)
    }
    if not wanted:
        begins = sorted({".".join(name.split(".")[:2]) for name in names})
        raise TeacherError(
            f"The weights file {path} holds no tensor whose name begins with {prefix!r}; names begin with "
            f"{some(begins)}. Correct {settings.prefix}."
        )
    return wanted


def _read(path: str, trusted: bool, settings: WeightsSettings) -> Any:
    name = "The weights file"
    place = artifact_path(path, name)
    try:
        require_regular(place)
    except UnsafeFileError as error:
        raise TeacherError(f"{name} {path} is no checkpoint: it is {error}.") from None
    if not place.is_file():
        raise TeacherError(f"{name} {path} is missing. Give the path of a checkpoint ({settings.weights}).")
    try:
        tensors = read_safetensors(place)
        if tensors is not None:
            return tensors
        with place.open("rb") as file:
            require_unpacked(file)
            content = torch.load(file, map_location="cpu", weights_only=not trusted)
    except (MemoryError, safetensors.SafetensorError) as error:
        raise TeacherError(
            f"{name} {path} is damaged: {str(error) or 'it asks for more memory than there is'}"
        ) from None
    except Exception as error:  # whatever a damaged file makes of itself, or one that was not written by torch.save
        reason = reason_of(error)
        if not trusted and (isinstance(error, pickle.UnpicklingError) or "TorchScript" in reason):
            raise TeacherError(
                f"{name} {path} is no checkpoint, or one that runs code when it is opened: {reason} "
                f"If you made it or trust it, set {settings.trust}."
            ) from None
        raise TeacherError(f"{name} {path} is no checkpoint: {reason}") from None
    return content.state_dict() if isinstance(content, nn.Module) else content


def read_safetensors(place: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of a file of safetensors, known by what it begins with (the length of a header, and JSON); else None.

    Raises:
        SafetensorError: the file is damaged.
    """
    with place.open("rb") as file:
        start = file.read(9)
    if len(start) < 9 or start[8:] != b"{" or not 2 <= struct.unpack("<Q", start[:8])[0] <= 100_000_000:
        return None
    return safetensors.torch.load(place.read_bytes())


def _places(content: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Each mapping in a file that holds tensors by name, with its place; of a VISSL checkpoint the network alone."""
    for place in _VISSLS_PLACES:
        if tensors := _tensors(_descend(content, place)):
            yield "", tensors
            return
    yield from _below(content, "", _MOST_LEVELS)


def _below(content: Any, place: str, levels: int) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or not levels:
        return
    if tensors := _tensors(content):
        yield place, tensors
    for name, value in content.items():
        if isinstance(name, str) and name not in _PARTS:
            yield from _below(value, f"{place}.{name}" if place else name, levels - 1)


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """Those that a mapping holds by name, and those of trunk and heads, which VISSL keeps as separate mappings."""
    if not isinstance(content, Mapping):
        return {}
    found = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    for part in _PARTS:
        found |= {f"{part}.{name}": value for name, value in _tensors(content.get(part)).items()}
    return found


def _descend(content: Any, place: tuple[str, ...]) -> Any:
    for step in place:
        content = content.get(step) if isinstance(content, Mapping) else None
    return content


def _kinds(content: Any) -> str:
    if isinstance(content, Mapping):
        return "the keys " + ", ".join(map(repr, list(content)[:_SHOWN]))
    return f"a {type(content).__name__}"


def reason_of(error: Exception) -> str:
    """What PyTorch says of the file itself, among its advice; one sentence."""
    said = str(error).strip() or type(error).__name__
    of_the_file = re.search(r"unsupported (?:global|class|operand)[^\n]*?(?=\. |\n|$)", said, re.IGNORECASE)
    return f"{of_the_file[0].rstrip('.')}." if of_the_file else said.splitlines()[0]


def some(names: list[str]) -> str:
    """The first few of many names."""
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
