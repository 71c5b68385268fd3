"""What VISSL's parts say of parameters that they do not take, with the block of the config that holds these.

The parts are built in the processes of a run, before features are extracted. A loss that is given an unknown parameter
ends in a TypeError of Python's there; the user can fix it, and is shown the block. All other errors keep their
traceback.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vissl_clusterfit.errors import ClusterFitError, ConfigError, problem

#: What the constructors of VISSL, Classy Vision and PyTorch raise where a parameter is missing, unknown or wrong.
_REFUSALS = (AssertionError, AttributeError, KeyError, TypeError, ValueError)


def with_place(build: Callable[..., Any], place: Callable[[Any], str]) -> Callable[..., Any]:
    """A function that builds a part from its block; ``place`` is the name of the block, for messages.

    The function it gives raises ConfigError where the part refuses its parameters.
    """

    @functools.wraps(build)
    def build_or_refuse(block: Any, *more: Any, **kwargs: Any) -> Any:
        with _refusals_of(place(block), block):
            return build(block, *more, **kwargs)

    return build_or_refuse


def with_head_parameters(get_model_head: Callable[[str], Any]) -> Callable[[str], Any]:
    """VISSL's ``get_model_head``, whose head refuses its parameters as the user's mistake."""

    @functools.wraps(get_model_head)
    def get(name: str) -> Callable[..., Any]:
        head = get_model_head(name)

        def build(model: Any, **parameters: Any) -> Any:
            with _refusals_of(f"config.MODEL.HEAD.PARAMS: {name}", parameters):
                return head(model, **parameters)

        return build

    return get


def with_collator_parameters(get_collator: Callable[..., Any]) -> Callable[..., Any]:
    """VISSL's ``get_collator``, which looks at the parameters now and not in a data worker at the first batch."""

    @functools.wraps(get_collator)
    def get(name: str, parameters: Mapping[str, Any]) -> Any:
        with _refusals_of(f"config.DATA: COLLATE_FUNCTION_PARAMS of {name}", parameters):
            collate = get_collator(name, parameters)
            inspect.signature(collate).bind([])
            return collate

    return get


@contextmanager
def _refusals_of(place: str, parameters: Any) -> Iterator[None]:
    try:
        yield
    except ClusterFitError:
        raise
    except _REFUSALS as error:
        given = ", ".join(str(key) for key in parameters if key != "name") or "no parameters"
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ConfigError(problem(place, found=given, allowed=f"parameters that it takes ({said})")) from None
