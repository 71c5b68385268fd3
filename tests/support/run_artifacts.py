"""The artefacts of the run that ``verification/conftest.py`` makes: their places, what opens them, what is wrong."""

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.features.store import FeatureStore, Shard
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.verification.verify import verify_artifacts

STORE, CODEBOOK, LABELS = "features/train", "codebook", "labels/train"
ALL = ["codebook", "features/test", "features/train", "labels/test", "labels/train"]
SHARD, DONE = Shard(100, 200).rows_file, Shard(100, 200).done_file
OPEN = {STORE: FeatureStore.open, CODEBOOK: Codebook.open, LABELS: PseudoLabels.open}


def wrong(*folders):
    """What is wrong, by artefact; those that are well are left out."""
    return {folder: problems for folder, problems in verify_artifacts(folders) if problems}
