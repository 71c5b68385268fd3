"""Which layers of a config's network can be taken as features."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from vissl_clusterfit.launch.compose.early import compose_early


def layers_of_config(overrides: Sequence[str]) -> list[str]:
    """What ``CLUSTERFIT.FEATURES.LAYER_NAME`` may be for the teacher's network of a config; empty if it does not say.

    Args:
        overrides: as on the command line.

    Raises:
        ConfigError: the config cannot be composed, or its network not be built.
    """
    plain, _ = compose_early(overrides)
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (before VISSL)

    import torch  # isort: skip
    from vissl.config import AttrDict  # isort: skip

    from vissl_clusterfit.config.clusterfit import ClusterFitConfig  # isort: skip
    from vissl_clusterfit.plugin.models.encoder import load_network, trunk_layers, untrained_teacher  # isort: skip

    settings = ClusterFitConfig.from_config(plain["config"])
    spec = untrained_teacher(AttrDict(plain["config"]["MODEL"]), settings.teacher, settings.features)
    with contextlib.redirect_stdout(sys.stderr):
        return trunk_layers(load_network(spec, torch.device("cpu")).trunk)
