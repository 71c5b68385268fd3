"""ClusterFit (Yan et al., CVPR 2020) for VISSL 0.1.6: cluster a network's features, retrain on the clusters.

The way of the data, and where each stage lives::

    data set -> features -> codebook -> pseudo-labels -> training -> transfer benchmarks -> report

    features/      FeatureStore, the extraction loop          config         config.CLUSTERFIT, checked
    clustering/    k-means, preprocessing, Codebook           config_path    where our Hydra configs are
    labels         PseudoLabels                               artifacts      paths, atomic writes, manifests
    transfer/      nearest neighbours, linear probe           distributed    rank, sums, broadcast
    report/        results.json and its table                 errors         what a user can mend
    adapters/      everything that imports VISSL              dependencies   is what is needed installed?
    plugin         register(): what is added to VISSL         compat         what VISSL needs repaired

Imports point downwards only: ``tools/`` -> ``adapters/`` -> the rest. Importing this package imports nothing
heavy and changes nothing; :func:`vissl_clusterfit.plugin.register` is the one call that touches VISSL.
"""

__version__ = "0.1.0"
