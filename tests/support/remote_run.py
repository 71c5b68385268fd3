"""A small run on any file system: its stages, and what is wrong with what they made."""

import fake_s3  # noqa: F401  (its import is its effect)
import stage_work
from object_store import handler_of
from stage_work import COUNT, SHARD_SIZE, Numbers

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import EncodingSettings, FeatureSettings
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.verification.verify import verify_artifacts

ALL = ("codebook", "features/train", "labels/train")
SETTINGS = ClusterFitConfig(num_clusters=7, num_iter=4, features=FeatureSettings(normalize=False))


def extract(folder, encoded=None):
    """Features of numbers, of which every tenth cannot be read."""
    images = Numbers(COUNT, frozenset(range(3, COUNT, 10)))

    def encode(pixels):
        if encoded is not None:
            encoded.update(int(image.flatten()[0]) for image in pixels)
        return stage_work.encode(pixels)

    settings = EncodingSettings(batch_size=stage_work.BATCH_SIZE, shard_size=SHARD_SIZE, max_unreadable=0.5)
    return extract_features(images, lambda: encode, folder, {"dataset": dataset_inputs(images.samples)}, settings)


def extract_elsewhere(root, uri, *args, **options):
    """An extraction to another file system, in a process of its own."""
    handler_of(uri).root = root
    stage_work.extract(artifact_path(uri), *args, **options)


def make(run, encoded=None):
    """All stages, those that are done left as they are."""
    store = extract(run / "features" / "train", encoded)
    if not artifacts.has_manifest(run / "codebook"):
        fit_codebook(store, SETTINGS, "cpu", run / "codebook")
    codebook = Codebook.open(run / "codebook")
    if not artifacts.has_manifest(run / "labels" / "train"):
        label_store(store, codebook, "cpu", run / "labels" / "train", max_distance=9.0)
    return PseudoLabels.open(run / "labels" / "train")


def wrong(*folders):
    return {str(folder): problems for folder, problems in verify_artifacts(folders)}
