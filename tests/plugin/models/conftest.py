"""Fixtures of the tests of trunks for clips."""

from collections.abc import Callable

import pytest
from vissl.config import AttrDict


@pytest.fixture(scope="session")
def video_model(model_config) -> Callable[..., AttrDict]:
    """The model block of a trunk for clips, with settings of TRUNK.VIDEO."""

    def of(name: str, **settings) -> AttrDict:
        return AttrDict({**model_config, "TRUNK": {"NAME": name, "VIDEO": settings}})

    return of
