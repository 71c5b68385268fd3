"""``OPTIMIZER.layer_decay``: no weight decay for norms, biases and positions, and rates by layer.

VISSL sorts parameters by the type of their module, and regularises what it does not know: GroupNorm, tokens, scales.
With this key, the groups are timm's. Without it, they are VISSL's.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from classy_vision.optim.param_scheduler import ClassyParamScheduler
from torch import nn

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ConfigError, problem

logger = logging.getLogger(__name__)

_KEY = "layer_decay"


class ScaledSchedule(ClassyParamScheduler):
    """A schedule times a number."""

    def __init__(self, schedule: Callable[[float], float], scale: float) -> None:
        super().__init__(schedule.update_interval)
        self._schedule, self._scale = schedule, scale

    def __call__(self, where: float) -> float:
        """The value at a share of the training, 0 to 1."""
        return self._scale * self._schedule(where)


def with_layer_decay(get_groups: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    """Wraps VISSL's ``get_optimizer_param_groups``."""

    @functools.wraps(get_groups)
    def get(
        model: nn.Module, model_config: Any, optimizer_config: Any, optimizer_schedulers: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        groups = get_groups(model, model_config, optimizer_config, optimizer_schedulers)  # freezes what is to be frozen
        if _KEY not in optimizer_config:
            return groups
        return layer_groups(model, optimizer_config, optimizer_schedulers)

    return get


def layer_groups(model: nn.Module, optimizer: Mapping[str, Any], schedules: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups by timm: layers of the trunk with their own rates, then the heads with the whole one.

    Args:
        model: VISSL's, with ``trunk`` and ``heads``.
        optimizer: ``config.OPTIMIZER``, with ``layer_decay``: what the rate of a layer is of that of the next one.
        schedules: of VISSL, by the name of what they set.

    Raises:
        ConfigError: ``layer_decay`` is no number of (0, 1].
        MissingDependencyError: timm is not installed.
    """
    require("timm")
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    decay = optimizer[_KEY]
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay <= 1:
        allowed = "above 0, to 1: 1 for the same rate in all layers"
        raise ConfigError(problem(f"config.OPTIMIZER.{_KEY}", found=repr(decay), allowed=allowed))
    trunk = getattr(model.trunk, "network", model.trunk)
    given = {"weight_decay": 1.0, "no_weight_decay_list": _without_decay(trunk, optimizer)}
    if decay < 1:
        # The trunk is counted without a classifier: the heads are the layer after its last one.
        groups = [
            {**group, "lr_scale": decay * group["lr_scale"]}
            for group in param_groups_layer_decay(trunk, layer_decay=decay, **given)
        ]
    else:
        groups = param_groups_weight_decay(trunk, **given)
    rate = schedules["lr"]
    found = [_group(each, rate, schedules.get("weight_decay", optimizer["weight_decay"])) for each in groups]
    heads = param_groups_weight_decay(model.heads, weight_decay=1.0)
    of_heads = schedules.get("weight_decay_head", optimizer["head_optimizer_params"]["weight_decay"])
    found += [_group(each, schedules["lr_head"], of_heads) for each in heads]
    scales = [each.get("lr_scale", 1.0) for each in groups]
    logger.info("Parameters in %d groups; rates of layers from %.3g to 1 of the rate.", len(found), min(scales))
    return [each for each in found if each["params"]]


def _group(group: Mapping[str, Any], rate: Any, weight_decay: Any) -> dict[str, Any]:
    scale = group.get("lr_scale", 1.0)
    return {
        "params": list(group["params"]),
        "lr": rate if scale == 1.0 else ScaledSchedule(rate, scale),
        "weight_decay": weight_decay if group["weight_decay"] else 0.0,
    }


def _without_decay(trunk: nn.Module, optimizer: Mapping[str, Any]) -> list[str]:
    """Names of parameters: those that the network names itself, and those of ``non_regularized_parameters``."""
    own = trunk.no_weight_decay() if hasattr(trunk, "no_weight_decay") else ()
    parts = [*own, *optimizer["non_regularized_parameters"]]
    return [name for name, _ in trunk.named_parameters() if any(part in name for part in parts)]
