"""The parts of a checkpoint of VISSL's."""

from typing import Any

import torch


def network_of(checkpoint: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The state dicts of trunk and heads."""
    return checkpoint["classy_state_dict"]["base_model"]["model"]


def trunk_of(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    return network_of(checkpoint)["trunk"]
