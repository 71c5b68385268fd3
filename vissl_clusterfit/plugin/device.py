"""``MACHINE.DEVICE``: checked, and as a device of PyTorch."""

from __future__ import annotations

import torch
from vissl.config import AttrDict

from vissl_clusterfit.errors import ConfigError, problem


def require_device(cfg: AttrDict, *, local: bool = True) -> None:
    """Checks ``MACHINE.DEVICE``, without touching a GPU. ``local`` is false where another machine will do the work.

    Raises:
        ConfigError: it is neither cpu nor gpu, or a GPU is asked for where there is none.
    """
    device = (cfg.MACHINE or {}).get("DEVICE")
    if local and device == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            problem(
                "config.MACHINE.DEVICE",
                found="gpu, and PyTorch sees none",
                allowed="cpu, or gpu on a machine that has one",
                remedy="Set config.MACHINE.DEVICE=cpu, or install a PyTorch that fits the driver.",
            )
        )


def run_device(cfg: AttrDict) -> torch.device:
    """``MACHINE.DEVICE`` of this process.

    Raises:
        ConfigError: as :func:`require_device`.
    """
    require_device(cfg)
    return torch.device("cuda", torch.cuda.current_device()) if cfg.MACHINE.DEVICE == "gpu" else torch.device("cpu")
