"""The sub-commands of ``vissl-clusterfit``: a small module for each, imported when it is called."""
