"""What VISSL is given and calls: data sources, trunks, heads, losses, the hook, engines."""

from vissl_clusterfit.plugin.registration import register

__all__ = ["register"]
