"""Random numbers that belong to positions: the same for a position on whatever process, in whatever chunk."""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.clustering.protocol import ALL, Fraction

# Rows that are drawn together, so that a share of a source is read from disk in runs.
_RUN_ROWS = 16


def in_share(positions: np.ndarray, share: Fraction) -> np.ndarray:
    """Which positions belong to a share: (n,) bool."""
    if share == ALL:
        return np.ones(len(positions), dtype=bool)
    low, high = share
    number = uniform(positions // _RUN_ROWS, stream=0)
    return (low <= number) & (number < high)


def uniform(positions: np.ndarray, stream: int) -> np.ndarray:
    """One number in (0, 1) per position, (n,) float64; another stream gives independent ones."""
    key = _mixed(np.array([stream], dtype=np.uint64))
    bits = _mixed(positions.astype(np.uint64) ^ key)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
