"""``config.CLUSTERFIT.ASSIGN``: labels for other data from a codebook that was made before."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import ConfigError, problem


@dataclass(frozen=True)
class AssignSettings:
    """``ASSIGN``: labels for other data from a codebook that was made before (``config=clusterfit/assign``)."""

    #: The folder of the codebook.
    codebook: str = setting("")
    #: Squared distance beyond which a sample gets no label, or "p99" for that which 99 % of the clustered samples have
    #: at most; negative for none.
    max_distance: object = setting(-1.0)

    def __post_init__(self) -> None:
        """Refuses what is neither.

        Raises:
            ConfigError: naming the setting.
        """
        number = isinstance(self.max_distance, (int, float)) and not math.isnan(self.max_distance)
        if (isinstance(self.max_distance, bool) or not number) and self.percentile is None:
            allowed = 'a squared distance, a percentile of those of the clustered split as "p99", or -1 for no limit'
            raise ConfigError(problem("MAX_DISTANCE", found=repr(self.max_distance), allowed=allowed))

    @property
    def percentile(self) -> float | None:
        """The percentile of the clustered split's distances that ``max_distance`` names, if it names one."""
        text = self.max_distance
        named = re.fullmatch(r"p(\d{1,3}(\.\d+)?)", text) if isinstance(text, str) else None
        return float(named[1]) if named and 0 < float(named[1]) <= 100 else None

    @property
    def limit(self) -> float | None:
        """``max_distance`` where it is a number; None where there is no limit."""
        known = isinstance(self.max_distance, (int, float)) and self.max_distance >= 0
        return float(self.max_distance) if known else None  # type: ignore[arg-type]
