"""Heads of a network by the names that VISSL's meters give their outputs, and a network made of trained ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from classy_vision.generic.util import save_checkpoint
from vissl.config import AttrDict
from vissl.models import is_feature_extractor_model

from vissl_clusterfit.models.weight_files import load_state_dict
from vissl_clusterfit.plugin.training.checkpoints import final_checkpoint


def head_names(cfg: AttrDict) -> list[str]:
    """What the rows of ``benchmarks.trained.scores`` call each head, in their order."""
    if not is_feature_extractor_model(cfg.MODEL):
        return ["output 0"]
    layers = [name for name, _ in cfg.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP]
    times, seen = Counter(layers), Counter[str]()
    names = []
    for layer in layers:
        names.append(f"layer {layer}" + (f", {seen[layer]}" if times[layer] > 1 else ""))
        seen[layer] += 1
    return names


def write_network(cfg: AttrDict, folders: Mapping[str, Path], path: Path) -> None:
    """Writes the trunk and the heads of finished trainings, as a checkpoint that VISSL reads weights from.

    Args:
        cfg: VISSL's ``config``.
        folders: for each head, in their order, the training that it is taken from. Where they differ, the trunk is
            frozen, and so the same in all.
        path: of the file.
    """
    states = {
        folder: load_state_dict(final_checkpoint(str(folder)) or "") for folder in dict.fromkeys(folders.values())
    }
    prefix = "trunk.base_model." if is_feature_extractor_model(cfg.MODEL) else "trunk."  # as VISSL adds it again
    first = next(iter(states.values()))
    trunk = {name.removeprefix(prefix): tensor for name, tensor in first.items() if name.startswith(prefix)}
    heads = {
        name.removeprefix("heads."): tensor
        for number, folder in enumerate(folders.values())
        for name, tensor in states[folder].items()
        if name.startswith(f"heads.{number}.")
    }
    model = {"trunk": trunk, "heads": heads}
    save_checkpoint(str(path.parent), {"classy_state_dict": {"base_model": {"model": model}}}, path.name)
