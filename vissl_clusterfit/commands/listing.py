"""What there is to choose from.

    vissl-clusterfit list configs
    vissl-clusterfit list configs clusterfit/transfer
    vissl-clusterfit list trunks
    vissl-clusterfit list sources
    vissl-clusterfit list layers config=pretrain/simclr/simclr_8node_resnet

configs: what config=NAME may be, of VISSL and of this package. trunks: what MODEL.TRUNK.NAME may be. sources: what
DATA_SOURCES may be. layers: what CLUSTERFIT.FEATURES.LAYER_NAME may be, of the teacher's network of a config, with
overrides as on its command line. With a text, only names that have it in them. Exit code 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

_REGISTRIES = {"trunks": "trunk", "sources": "data source"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("kind", choices=["configs", "trunks", "layers", "sources"])
    parser.add_argument("words", nargs="*", metavar="TEXT | config=NAME", help="what names must have in them; or which")


def run(options: argparse.Namespace) -> int:
    """Prints the names, one per line."""
    names = _layers(options.words) if options.kind == "layers" else _named(options.kind, options.words)
    for name in names:
        print(name)
    return 0


def _named(kind: str, words: list[str]) -> Iterable[str]:
    from vissl_clusterfit.dependencies import require

    require("vissl")
    if kind == "configs":
        from vissl_clusterfit.launch.compose.overrides import config_names

        names: Iterable[str] = config_names()
    else:
        from vissl_clusterfit.launch.compose.registered_names import registered_names

        names = registered_names(_REGISTRIES[kind])
    return sorted(name for name in names if all(word.lower() in name.lower() for word in words))


def _layers(words: list[str]) -> Iterable[str]:
    from vissl_clusterfit.errors import ConfigError, problem

    if not any("=" in word for word in words):
        found, allowed = " ".join(words) or "nothing", "config=NAME, with overrides"
        raise ConfigError(problem("list layers", found=found, allowed=allowed))
    from vissl_clusterfit.launch.compose.layers import layers_of_config

    return layers_of_config(words)
