"""The artefacts of one small run, made by the real code, in the folders of a real run."""

from pathlib import Path

import numpy as np
from tiny_store import save_store

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store

ROWS = np.random.default_rng(0).standard_normal((250, 6)).astype(np.float32)
UNREADABLE = {"train": [3, 120, 249], "test": [7]}


def make_run(run: Path, *, dtype: str = "float32", max_distance: float | None = None, **settings: object) -> Path:
    """Features and labels of a clustered and of a held-out split, and their codebook.

    ``max_distance`` is that of the held-out split; ``settings`` are those of the clustering, FEATURES by name, too.
    """
    rows = {"train": ROWS, "test": 2 * ROWS[:40]}
    stores = {
        split: save_store(run / "features" / split, rows[split], UNREADABLE[split], dtype=dtype) for split in rows
    }
    codebook = cluster(stores["train"], run / "codebook", **settings)
    top = settings.get("top_clusters", 1)
    label_store(stores["train"], codebook, "cpu", run / "labels" / "train", top_clusters=top)
    label_store(stores["test"], codebook, "cpu", run / "labels" / "test", max_distance=max_distance, top_clusters=top)
    return run


def cluster(store: FeatureStore, folder: Path, **settings: object):
    """A codebook of seven clusters."""
    features = {name: settings.pop(name) for name in list(settings) if hasattr(FeatureSettings(), name)}
    config = ClusterFitConfig(**{"num_clusters": 7, "num_iter": 5, "features": FeatureSettings(**features), **settings})
    return fit_codebook(store, config, "cpu", folder)
