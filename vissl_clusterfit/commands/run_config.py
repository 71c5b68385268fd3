"""``vissl-clusterfit run config=…``: what the launcher does, with the arguments that it takes."""

from __future__ import annotations

from collections.abc import Sequence


def run(overrides: Sequence[str]) -> int:
    """Runs a config and returns the exit code."""
    from vissl_clusterfit.launch.main import main

    return main(overrides or ["--help"])
