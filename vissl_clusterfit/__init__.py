"""ClusterFit (Yan et al., CVPR 2020) for VISSL 0.1.6: cluster a network's features, retrain on the clusters.

The way of the data, and where each stage lives::

    data set -> features -> codebook -> pseudo-labels -> training -> transfer benchmarks -> report

    datasets/, video/   publishers' archives as lists; clips      storage/, distributed   files that survive; ranks
    features/           FeatureStore, extraction, imports         config/                 what a run may say
    search/             the nearest of many vectors               planner/                time and memory, said before
    clustering/         k-means, Codebook, the estimator          verification/           artefacts, read again
    labels/             PseudoLabels: made, compared              plugin/                 what VISSL is given
    transfer/, report/  scores of frozen features; tables         launch/                 from a command to processes
    study/              methods compared, with intervals          compat/                 repairs of VISSL
    api                 what a notebook calls                 commands/               what a terminal calls

The names below come on demand: importing the package imports nothing heavy and changes nothing.
:func:`vissl_clusterfit.plugin.register` is the one call that touches VISSL.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vissl_clusterfit.api import (
        check_artifacts,
        compare_labels,
        make_codebook,
        make_labels,
        open_artifact,
    )
    from vissl_clusterfit.api.embedding import embed
    from vissl_clusterfit.clustering.estimator import KMeans
    from vissl_clusterfit.errors import ClusterFitError
    from vissl_clusterfit.features.imports import import_features
    from vissl_clusterfit.labels.export import export_labels
    from vissl_clusterfit.labels.imports import import_labels
    from vissl_clusterfit.labels.in_memory import label_rows
    from vissl_clusterfit.labels.sample import draw_balanced

__version__ = "0.1.0"

__all__ = [
    "ClusterFitError",
    "KMeans",
    "check_artifacts",
    "compare_labels",
    "draw_balanced",
    "embed",
    "export_labels",
    "import_features",
    "import_labels",
    "label_rows",
    "make_codebook",
    "make_labels",
    "open_artifact",
]

_MODULES = {
    "ClusterFitError": "errors",
    "KMeans": "clustering.estimator",
    "check_artifacts": "api",
    "compare_labels": "api",
    "draw_balanced": "labels.sample",
    "embed": "api.embedding",
    "export_labels": "labels.export",
    "import_features": "features.imports",
    "import_labels": "labels.imports",
    "label_rows": "labels.in_memory",
    "make_codebook": "api",
    "make_labels": "api",
    "open_artifact": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
