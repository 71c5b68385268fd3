"""Networks that cannot be built as a config has them: one message for whatever a constructor raises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem

# What constructors raise where they do not take their arguments; another error is a fault of the machine or of ours.
_OF_CONSTRUCTORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)


def network_errors(build: Callable[..., nn.Module], setting: str = "config.MODEL") -> Callable[..., nn.Module]:
    """Wraps VISSL's ``build_model``: what a trunk's or a head's constructor does not take is the user's to fix."""

    @functools.wraps(build)
    def build_or_say(model_config: Any, *args: Any, **kwargs: Any) -> nn.Module:
        try:
            return build(model_config, *args, **kwargs)
        except ClusterFitError:
            raise
        except _OF_CONSTRUCTORS as error:
            raise _no_network(setting, model_config, error) from None
        except RuntimeError as error:  # of PyTorch, for a full memory as well
            if "negative dimension" not in str(error):
                raise
            raise _no_network(setting, model_config, error) from None

    return build_or_say


def _no_network(setting: str, model: Any, error: Exception) -> ConfigError:
    reason = (str(error).strip() or "an assertion").splitlines()[0].rstrip(".")
    return ConfigError(
        problem(
            setting,
            found=f"a network that cannot be built, trunk {model.TRUNK.NAME}: {type(error).__name__}: {reason}",
            allowed="what the constructors of its trunk and heads take",
            remedy=f"Check {setting}.TRUNK and {setting}.HEAD.PARAMS.",
        )
    )
