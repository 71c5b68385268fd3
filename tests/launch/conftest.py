"""Modules of VISSL are imported by these tests: repaired, and with our registrations."""

from vissl_clusterfit import compat, plugin

compat.apply()
plugin.register()
