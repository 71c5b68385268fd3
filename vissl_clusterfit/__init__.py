"""ClusterFit (Yan et al., CVPR 2020) for VISSL 0.1.6: cluster a network's features, retrain on the clusters.

The way of the data, and where each stage lives::

    data set -> features -> codebook -> pseudo-labels -> training -> transfer benchmarks -> report

    features/      FeatureStore, the extraction loop          config         config.CLUSTERFIT, checked
    clustering/    k-means, search, Codebook, planner         config_path    where our Hydra configs are
    labels         PseudoLabels (label_rows, label_files)      artifacts      paths, manifests, arrays
    transfer/      nearest neighbours, linear probe           storage/       whole files, leases
    report/        results.json and its table                 verification/  artefacts, read again to the byte
    video/         video files as clips
    adapters/      everything that imports VISSL              distributed    rank, what one does for all
    plugin         register(): what is added to VISSL         errors         what a user can mend
    digits         the pictures of the quickstart             settings       how a block of a config is read
    moving_digits  the clips of that of video                 scans, drawn_sets   what both are drawn of, and how
    datasets/      publishers' lists, made ready              slurm_settings what a run asks of SLURM
    study/         methods compared, with intervals           suite_settings benchmarks that follow a training
    dependencies   is what is needed installed?               compat         what VISSL needs repaired

Imports point downwards only: ``tools/`` -> ``adapters/`` -> the rest. Importing this package imports nothing
heavy and changes nothing; :func:`vissl_clusterfit.plugin.register` is the one call that touches VISSL.
"""

__version__ = "0.1.0"
