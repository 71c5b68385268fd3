"""What there is to choose from.

    vissl-clusterfit list configs
    vissl-clusterfit list configs clusterfit/transfer
    vissl-clusterfit list trunks
    vissl-clusterfit list sources
    vissl-clusterfit list models vit small
    vissl-clusterfit list layers timm:vit_tiny_patch16_224
    vissl-clusterfit list layers config=pretrain/simclr/simclr_8node_resnet

configs: what config=NAME may be, of VISSL and of this package. trunks: what MODEL.TRUNK.NAME may be. sources: what
DATA_SOURCES may be. models: the networks that torchvision and timm build by name; beside them, there are
transformers:FOLDER, hub:REPOSITORY and python:MODULE:FUNCTION. layers: what --layer or CLUSTERFIT.FEATURES.LAYER_NAME
may be, of a network by name, or of the teacher of a config, with overrides as on its command line. With texts, only
names that have all of them in them. Exit code 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

_REGISTRIES = {"trunks": "trunk", "sources": "data source"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("kind", choices=["configs", "trunks", "layers", "sources", "models"])
    parser.add_argument(
        "words", nargs="*", metavar="TEXT", help="what names must have in them; for layers, the network or config=NAME"
    )


def run(options: argparse.Namespace) -> int:
    """Prints the names, one per line."""
    names = _layers(options.words) if options.kind == "layers" else _named(options.kind, options.words)
    for name in names:
        print(name)
    return 0


def _named(kind: str, words: list[str]) -> Iterable[str]:
    return sorted(name for name in _all(kind) if all(word.lower() in name.lower() for word in words))


def _all(kind: str) -> Iterable[str]:
    if kind == "models":
        return _models()
    from vissl_clusterfit.dependencies import require

    require("vissl")
    if kind == "configs":
        from vissl_clusterfit.launch.compose.overrides import config_names

        return config_names()
    from vissl_clusterfit.launch.compose.registered_names import registered_names

    return registered_names(_REGISTRIES[kind])


def _models() -> Iterable[str]:
    from importlib.util import find_spec

    from vissl_clusterfit.models.torchvision_models import model_names

    yield from model_names()
    if find_spec("timm"):
        from vissl_clusterfit.models import timm_models

        yield from timm_models.model_names()


def _layers(words: list[str]) -> Iterable[str]:
    from vissl_clusterfit.config.network_names import is_network_name
    from vissl_clusterfit.errors import ConfigError, problem

    if any("=" in word for word in words):
        from vissl_clusterfit.launch.compose.layers import layers_of_config

        return layers_of_config(words)
    if len(words) != 1 or not is_network_name(words[0]):
        allowed = "a network by name, such as timm:resnet18, or config=NAME, with overrides"
        raise ConfigError(problem("list layers", found=" ".join(words) or "nothing", allowed=allowed))
    from vissl_clusterfit.models import load

    return load(words[0]).layers
