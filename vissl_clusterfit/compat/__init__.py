"""VISSL 0.1.6 on today's Python and libraries: named repairs, applied before its first import."""

from vissl_clusterfit.compat.repairs import REPAIRS, TRUST_VARIABLE, apply

__all__ = ["REPAIRS", "TRUST_VARIABLE", "apply"]
