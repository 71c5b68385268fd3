"""The names of networks that other libraries build: ``<library>:<model>``, read without importing any of them."""

from __future__ import annotations

from vissl_clusterfit.config.nearest import nearest, proposal
from vissl_clusterfit.errors import ConfigError, problem

#: What a name begins with, and what follows the colon.
LIBRARIES = {
    "torchvision": "<model>",
    "timm": "<model>",
    "transformers": "<folder or name>",
    "hub": "<local repository>[:<entry>]",
    "python": "<module>:<function>",
}
#: The trunk that a network of a library is in VISSL, and the block of its settings below ``MODEL.TRUNK``.
TRUNK_NAME, TRUNK_BLOCK = "library_network", "LIBRARY_NETWORK"
#: What stands in the place of a file: the weights that the library itself brings.
LIBRARY_WEIGHTS = "library"


def is_network_name(name: object) -> bool:
    """Whether a name is of this form, rightly spelt or not: registered trunks have no colon in their names."""
    return isinstance(name, str) and ":" in name


def split_network_name(name: str, setting: str = "name") -> tuple[str, str]:
    """The library and the model of a name.

    Args:
        name: such as ``timm:resnet18``.
        setting: what to call the name in a message.

    Raises:
        ConfigError: it begins with no library, or names no model.

    Examples:
        >>> split_network_name("timm:resnet18")
        ('timm', 'resnet18')
    """
    library, _, model = name.partition(":")
    allowed = " | ".join(f"{each}:{form}" for each, form in LIBRARIES.items())
    if library not in LIBRARIES:
        near = proposal(f"{each}:{model}" for each in nearest(library, LIBRARIES))
        raise ConfigError(problem(setting, found=repr(name), allowed=allowed, remedy=near))
    if not model:
        raise ConfigError(problem(setting, found=f"{name!r}, without a model", allowed=allowed))
    return library, model
