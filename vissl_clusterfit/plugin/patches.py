"""Weights that VISSL loads into a network, with proof that the whole trunk got them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

from vissl_clusterfit.errors import TeacherError

logger = logging.getLogger(__name__)

_SHOWN = 3
_REMEDY = (
    "Make config.MODEL.TRUNK the network that was trained, and check config.MODEL.WEIGHTS_INIT (STATE_DICT_KEY_NAME, "
    "REMOVE_PREFIX, APPEND_PREFIX); what is to start at random is named in its SKIP_LAYERS."
)


def of_the_whole_trunk(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps VISSL's ``init_model_from_consolidated_weights``, which logs what it does not find and goes on.

    A tensor of the trunk that gets no weights is refused, unless ``SKIP_LAYERS`` names it. Heads that start at random,
    as those of most benchmarks do, are said in the log.
    """

    @functools.wraps(load)
    def load_all(
        config: Any,
        model: Any,
        state_dict: Any,
        state_dict_key_name: str,
        skip_layers: list[str],
        *more: Any,
        **kwargs: Any,
    ) -> Any:
        path = config.MODEL.WEIGHTS_INIT.PARAMS_FILE
        # VISSL copies into the tensors of the network, and every such copy is counted by the tensor.
        before = {name: tensor._version for name, tensor in model.state_dict().items()}
        try:
            loaded = load(config, model, state_dict, state_dict_key_name, skip_layers, *more, **kwargs)
        except AssertionError as error:
            raise TeacherError(f"{path} does not fit config.MODEL: {error}. {_REMEDY}") from None
        except KeyError as error:
            raise TeacherError(f"{path} is no checkpoint of VISSL's: it has no {error}. {_REMEDY}") from None
        except Exception as error:
            if type(error) is not Exception:  # VISSL raises this one where the names do not fit
                raise
            raise TeacherError(f"{path} does not fit config.MODEL: {error} {_REMEDY}") from None
        without = [
            name
            for name, tensor in model.state_dict().items()
            if tensor._version == before[name] and not any(skipped in name for skipped in skip_layers)
        ]
        trunk = [name for name in without if name.startswith("trunk.")]
        if trunk:
            of_all = sum(name.startswith("trunk.") for name in before)
            shown = ", ".join(trunk[:_SHOWN]) + (f" and {len(trunk) - _SHOWN} more" if len(trunk) > _SHOWN else "")
            raise TeacherError(
                f"{path} has no weights for {len(trunk)} of {of_all} tensors of the trunk: {shown}. {_REMEDY}"
            )
        left_out = [name for name in before if name.startswith("trunk.") and name not in _counters(before)]
        left_out = [name for name in left_out if any(skipped in name for skipped in skip_layers)]
        logger.info("The %s trunk has the weights of %s.", "rest of the" if left_out else "whole", path)
        if left_out or without:
            logger.info("These start at random: %s.", ", ".join(left_out + without))
        return loaded

    return load_all


def _counters(names: Iterable[str]) -> set[str]:
    """How many batches a normalisation has seen, which VISSL leaves out of its own accord; it decides nothing."""
    return {name for name in names if name.endswith("num_batches_tracked")}
