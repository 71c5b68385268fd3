"""Weights from a file into a network, whoever saved them, with proof that they arrived."""

from __future__ import annotations

import functools
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)

# Where a state dict lies in the files of VISSL and of most other projects, last in the file itself.
_USUAL_PLACES: tuple[tuple[str, ...], ...] = (
    ("classy_state_dict", "base_model", "model"),
    ("base_model", "model"),
    ("model_state_dict",),
    ("state_dict",),
    ("model",),
    (),
)
_SHOWN = 5
_PROBES = 8


@dataclass(frozen=True)
class WeightsSettings:
    """What the settings are called that a message about weights names; as they are, those of the teacher."""

    weights: str = "config.CLUSTERFIT.TEACHER.WEIGHTS"
    key: str = "config.CLUSTERFIT.TEACHER.STATE_DICT_KEY"
    trust: str = "config.CLUSTERFIT.TEACHER.TRUST_WEIGHTS=true"
    model: str = "config.CLUSTERFIT.TEACHER.MODEL"


_OF_THE_TEACHER = WeightsSettings()


def load_state_dict(
    path: str, *, key: str = "", trusted: bool = False, settings: WeightsSettings = _OF_THE_TEACHER
) -> dict[str, torch.Tensor]:
    """Reads the tensors of a checkpoint, under dotted names.

    Args:
        path: a VISSL checkpoint, or a torchvision or plain state dict.
        key: where the state dict lies in the file, dotted; the usual places are tried when it is empty.
        trusted: whether the file may run code when it is opened (Python's pickle).
        settings: what to call the settings.

    Raises:
        TeacherError: there is no such file, it is no checkpoint, it needs pickle, or it holds no tensors under ``key``.
    """
    setting = "The weights file"
    place = artifact_path(path, setting)
    if not place.is_file():
        raise TeacherError(f"{setting} {path} is missing. Give the path of a checkpoint ({settings.weights}).")
    try:
        with place.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        raise TeacherError(
            f"{setting} {path} is no checkpoint, or one that runs code when it is opened: {_reason(error)} "
            f"If you made it or trust it, set {settings.trust}."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise TeacherError(f"{setting} {path} is no checkpoint: {error}") from None
    found = _descend(content, tuple(key.split("."))) if key else content
    for place in _USUAL_PLACES:
        tensors = dict(_tensors(_descend(found, place)))
        if tensors:
            return tensors
    where = f"under {key!r}" if key else "in any of the usual places"
    raise TeacherError(
        f"{setting} {path} holds no tensors {where}; it holds {_kinds(content)}. Name the place with {settings.key}."
    )


def _descend(content: Any, place: tuple[str, ...]) -> Any:
    for step in place:
        content = content.get(step) if isinstance(content, Mapping) else None
    return content


def _tensors(content: Any, prefix: str = "") -> Any:
    """Every tensor below a mapping; VISSL keeps trunk and heads as mappings of their own."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, Mapping) and name in ("trunk", "heads"):
                yield from _tensors(value, f"{prefix}{name}.")


def _kinds(content: Any) -> str:
    if isinstance(content, Mapping):
        return "the keys " + ", ".join(map(repr, list(content)[:_SHOWN]))
    return f"a {type(content).__name__}"


def load_weights(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    what: str,
    path: str,
    settings: WeightsSettings = _OF_THE_TEACHER,
) -> None:
    """Loads ``state`` into ``module``, all of it or nothing.

    Names need not be equal: one prefix of the file's names is exchanged for one of the module's
    (``module.trunk.`` for nothing, nothing for ``_feature_blocks.``), the one that fits most tensors.

    Raises:
        TeacherError: no tensor fits, or some of the module's have none or one of another shape.
    """
    target = dict(module.state_dict())
    needed = [name for name in target if not name.endswith("num_batches_tracked")]
    renamed = _best_renaming(needed, state)
    found = {name: state[renamed[name]] for name in needed if renamed.get(name) in state}
    if not found:
        raise TeacherError(
            f"{path} holds no tensor of the {what}. The {what} has {_some(needed)}; the file has {_some(list(state))}. "
            f"Check {settings.model} and {settings.key}."
        )
    missing = [name for name in needed if name not in found]
    shapes = [
        f"{name} {tuple(tensor.shape)} for {tuple(target[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != target[name].shape
    ]
    if missing or shapes:
        raise TeacherError(
            f"{path} fits the {what} only in part: {len(found) - len(shapes)} of {len(needed)} tensors"
            + (f"; missing {_some(missing)}" if missing else "")
            + (f"; of another shape {_some(shapes)}" if shapes else "")
            + f". Make {settings.model} the network that was trained."
        )
    module.load_state_dict({**target, **found})
    logger.info("Loaded %d tensors of the %s from %s.", len(found), what, path)


def _best_renaming(needed: list[str], state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """From the module's names to the file's, by the pair of prefixes that makes most of them meet."""
    best: dict[str, str] = {}
    best_count = 0
    for own in ("", "_feature_blocks."):
        if not all(name.startswith(own) for name in needed):
            continue
        tails = [name.removeprefix(own) for name in needed]
        # Long names are the least likely to end like another network's; a few of them, as one may be missing.
        probes = sorted(tails, key=len, reverse=True)[:_PROBES]
        prefixes = {name.removesuffix(probe) for probe in probes for name in state if f".{name}".endswith(f".{probe}")}
        for foreign in sorted(prefixes):
            renamed = {f"{own}{tail}": f"{foreign}{tail}" for tail in tails}
            count = sum(source in state for source in renamed.values())
            if count > best_count:
                best, best_count = renamed, count
    return best


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _reason(error: pickle.UnpicklingError) -> str:
    """What PyTorch says of the file itself, among its advice; one sentence."""
    said = str(error).strip()
    of_the_file = re.search(r"unsupported (?:global|class|operand)[^\n]*?(?=\. |\n|$)", said, re.IGNORECASE)
    return f"{of_the_file[0].rstrip('.')}." if of_the_file else said.splitlines()[0]


def told_in_one_message(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps VISSL's ``load_and_broadcast_checkpoint``: a file that PyTorch refuses is the user's to mend."""

    @functools.wraps(load)
    def load_or_tell(checkpoint_folder: str, checkpoint_path: str, device: Any) -> Any:
        if not artifact_path(checkpoint_path).exists():  # PyTorch would be given nothing
            raise TeacherError(f"{checkpoint_path} is missing: a checkpoint that a training was to go on from.")
        try:
            return load(checkpoint_folder, checkpoint_path, device)
        except pickle.UnpicklingError as error:
            raise TeacherError(
                f"{checkpoint_path} is no checkpoint, or one that runs code when it is opened: {_reason(error)} If you "
                f"made or trust it, set the environment variable {TRUST_VARIABLE}=1; else name another file or folder."
            ) from None

    return load_or_tell
