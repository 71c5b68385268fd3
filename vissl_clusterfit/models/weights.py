"""Weights from a file into a network, whoever saved them, with proof that they arrived and whose they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.models.weight_files import OF_THE_TEACHER, WeightsSettings, some

logger = logging.getLogger(__name__)

_PROBES = 8


def load_weights(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    what: str,
    path: str,
    settings: WeightsSettings = OF_THE_TEACHER,
) -> str:
    """Loads ``state`` into ``module``, all of it or nothing, and returns what the names begin with in the file.

    Names need not be equal: one prefix of the file's names is exchanged for one of the module's
    (``module.trunk.`` for nothing, nothing for ``_feature_blocks.``), the one that fits most tensors.

    Raises:
        TeacherError: no tensor fits, some of the module's have none or one of another shape, or several networks fit.
    """
    target = dict(module.state_dict())
    needed = _needed(target)
    renamings = list(_renamings(needed, state))
    fitting = _different([each for each in renamings if _fits(target, state, each[1])], state)
    if len(fitting) > 1:
        networks = ", ".join(repr(prefix) for prefix, _ in fitting)
        raise TeacherError(
            f"{path} holds {len(fitting)} networks that fit the {what}; their names begin with {networks}. Choose one "
            f"with {settings.prefix}."
        )
    prefix, renamed = (
        fitting[0] if fitting else max(renamings, key=lambda each: _count(each[1], state), default=("", {}))
    )
    found = {name: state[renamed[name]] for name in needed if renamed.get(name) in state}
    if not found:
        raise TeacherError(
            f"{path} holds no tensor of the {what}. The {what} has {some(needed)}; the file has {some(list(state))}. "
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
            + (f"; missing {some(missing)}" if missing else "")
            + (f"; of another shape {some(shapes)}" if shapes else "")
            + f". Make {settings.model} the network that was trained."
        )
    module.load_state_dict({**target, **found})
    names = f", whose names begin with {prefix!r} there" if prefix else ""
    logger.info("Loaded %d tensors of the %s from %s%s.", len(found), what, path, names)
    return prefix


def more_blocks(module: nn.Module, state: Mapping[str, torch.Tensor], prefix: str) -> list[str]:
    """The names in the file of blocks that follow those of ``module``: ``layer1.2.…`` where it has two.

    A deeper network of the same width holds all tensors of a shallower one. What is left over elsewhere tells nothing:
    classifiers, single layers, other networks.
    """
    own = {block for name in module.state_dict() for block in _blocks(name)}
    rows = {block[:-1] for block in own}
    names = [name for name in _needed(state) if name.startswith(prefix)]
    return [
        name
        for name in names
        if any(block[:-1] in rows and block not in own for block in _blocks(name.removeprefix(prefix)))
    ]


def _blocks(name: str) -> list[tuple[str, ...]]:
    """The numbered modules of several layers that a tensor is in."""
    parts = name.split(".")
    return [tuple(parts[: place + 1]) for place, part in enumerate(parts[:-2]) if part.isdigit()]


def networks_of(module: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """What the names of each network begin with that fits ``module`` whole; equal ones count once."""
    target = dict(module.state_dict())
    renamings = _renamings(_needed(target), state)
    return [prefix for prefix, _ in _different([each for each in renamings if _fits(target, state, each[1])], state)]


def _needed(target: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name in target if not name.endswith("num_batches_tracked")]


def _renamings(needed: list[str], state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, str]]]:
    """Prefixes in the file, each with the names there of the module's tensors; some of these may be missing."""
    for own in ("", "_feature_blocks."):
        if not all(name.startswith(own) for name in needed):
            continue
        tails = [name.removeprefix(own) for name in needed]
        # Long names are the least likely to end like another network's; a few of them, as one may be missing.
        probes = sorted(tails, key=len, reverse=True)[:_PROBES]
        prefixes = {name.removesuffix(probe) for probe in probes for name in state if f".{name}".endswith(f".{probe}")}
        for foreign in sorted(prefixes):
            yield foreign, {f"{own}{tail}": f"{foreign}{tail}" for tail in tails}


def _count(renamed: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> int:
    return sum(source in state for source in renamed.values())


def _fits(target: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], renamed: Mapping[str, str]) -> bool:
    return all(source in state and state[source].shape == target[name].shape for name, source in renamed.items())


def _different(
    renamings: list[tuple[str, dict[str, str]]], state: Mapping[str, torch.Tensor]
) -> list[tuple[str, dict[str, str]]]:
    """Without those whose tensors are all equal to an earlier one's, as where a file holds a network twice."""
    kept: list[tuple[str, dict[str, str]]] = []
    for prefix, renamed in renamings:
        if not any(_equal(renamed, other, state) for _, other in kept):
            kept.append((prefix, renamed))
    return kept


def _equal(one: Mapping[str, str], other: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> bool:
    return all(one[name] == other[name] or torch.equal(state[one[name]], state[other[name]]) for name in one)
