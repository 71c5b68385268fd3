"""Makes ``config=clusterfit/<name>`` known to Hydra from any folder.

Hydra imports this module in every application of the environment, so it must stay cheap.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from vissl_clusterfit.config.search_path import config_dir


class ClusterFitSearchPath(SearchPathPlugin):
    """Appends our configs, behind VISSL's, which VISSL's own plugin adds."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra once per application."""
        search_path.append(provider="vissl-clusterfit", path=f"file://{config_dir()}")
