"""The main module of child processes; see :func:`vissl_clusterfit.adapters.bootstrap.cover_children`."""

from vissl_clusterfit.adapters import bootstrap  # noqa: F401  (its import is its effect)
