"""The part of a composition that needs neither PyTorch nor VISSL: all that can be refused at once is refused here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose import overlay
from vissl_clusterfit.launch.compose.engine import choose_benchmark_engine
from vissl_clusterfit.launch.compose.overrides import compose_overrides

_FOLDER = "a folder that is there or can be made"
_SHOWN = 80


def compose_early(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """VISSL's whole config as plain dictionaries and lists, and what was changed in it, for the log.

    Raises:
        ConfigError: as :func:`.overrides.compose_overrides`, or our overlay does not fit.
    """
    plain = compose_overrides(overrides)
    _require_folder(plain["config"]["CHECKPOINT"]["DIR"])
    changes = overlay.check_and_describe(overrides, plain["config"])
    return plain, [*changes, *choose_benchmark_engine(overrides, plain)]


def _require_folder(text: str) -> None:
    try:
        above = next((path for path in (Path(text), *Path(text).absolute().parents) if path.exists()), None)
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        found = f"{text[:_SHOWN]!r} ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(problem("config.CHECKPOINT.DIR", found=found, allowed=_FOLDER)) from None
    if "://" not in text and above is not None and not above.is_dir():
        raise ConfigError(
            problem(
                "config.CHECKPOINT.DIR",
                found=f"{text}, and {above} is no folder",
                allowed=_FOLDER,
            )
        )
