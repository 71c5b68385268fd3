"""OmegaConf's reader and VISSL's writer of YAML on libyaml, in a fraction of their time: the defaults are 1,300 lines.

Both are built on what is written in Python, and have no setting for another. Hydra reads each file anew whenever it
composes, three times for one command; here a text that was read before is copied from memory.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Iterator
from typing import Any

import omegaconf._utils
import yaml
from omegaconf import OmegaConf
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

_OMEGACONFS = omegaconf._utils.get_yaml_loader
_LOAD = OmegaConf.load
_DUMP = yaml.dump
#: What was read, by its text. A copy by pickle takes a tenth of the time that OmegaConf takes to make it.
_READ: dict[str, bytes] = {}


@contextlib.contextmanager
def quick_yaml() -> Iterator[None]:
    """While the block runs, OmegaConf and VISSL do what they do otherwise: by libyaml where PyYAML has it, and once."""
    if yaml.__with_libyaml__:
        omegaconf._utils.get_yaml_loader = _quick_loader
        yaml.dump = functools.partial(_DUMP, Dumper=yaml.CDumper)
    OmegaConf.load = _load
    try:
        yield
    finally:
        omegaconf._utils.get_yaml_loader = _OMEGACONFS
        yaml.dump = _DUMP
        OmegaConf.load = _LOAD


def _load(file: Any) -> Any:
    text = file.read()
    if text not in _READ:
        file.seek(0)  # an error names the file
        _READ[text] = pickle.dumps(_LOAD(file))
    return pickle.loads(_READ[text])


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
