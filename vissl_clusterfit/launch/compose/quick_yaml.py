"""OmegaConf's reader of YAML on libyaml, in a fraction of its time: VISSL's defaults alone are 1,300 lines.

OmegaConf builds its loader on the one that is written in Python, and has no setting for another.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import omegaconf._utils
import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

_OMEGACONFS = omegaconf._utils.get_yaml_loader


@contextlib.contextmanager
def quick_yaml() -> Iterator[None]:
    """While the block runs, OmegaConf reads files as it does otherwise, by libyaml where PyYAML has it."""
    if yaml.__with_libyaml__:
        omegaconf._utils.get_yaml_loader = _quick_loader
    try:
        yield
    finally:
        omegaconf._utils.get_yaml_loader = _OMEGACONFS


@functools.cache
def _quick_loader() -> Any:
    from yaml.cyaml import CParser

    slow: Any = _OMEGACONFS()

    class Loader(CParser, slow):  # the parser first: it stands for the reader, scanner, parser and composer
        def __init__(self, stream: Any) -> None:
            CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return Loader
