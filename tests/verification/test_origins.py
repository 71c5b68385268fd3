"""Labels and codebooks that are whole and of the right type, but do not follow from the features they name."""

import numpy as np
import pytest
from tiny_run import make_run
from tiny_store import rewrite_array, rewrite_manifest

from vissl_clusterfit.clustering.codebook import Codebook, codebook_hash
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifacts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose clustering has converged, so that its labels, counts and centroids follow from each other."""
    run = make_run(tmp_path_factory.mktemp("made") / "run", num_iter=100, normalize=False)
    assert Codebook.open(run / "codebook").manifest["converged"]
    return run


def problems(run):
    return [problem for _, found in verify_artifacts([run]) for problem in found]


def rewrite_codebook(run, name=None, array=None, **changes):
    """Another codebook, which the labels name as theirs."""
    folder = run / "codebook"
    if name is not None:
        rewrite_array(folder, name, array)
    rewrite_manifest(folder, **changes)
    for split in ("train", "test"):
        rewrite_manifest(run / "labels" / split, codebook_hash=codebook_hash(artifacts.read_manifest(folder)))


def test_labels_and_a_codebook_that_follow_from_their_features_are_well(run):
    assert problems(run) == []


@pytest.mark.parametrize("factor", [0.9, 1.001, 2])
def test_a_wrong_distance_is_found(run, factor):
    folder = run / "labels" / "test"
    distances = np.array(PseudoLabels.open(folder).distances)
    distances[11] *= factor
    rewrite_array(folder, "distances.npy", distances)
    assert problems(run) == [
        f"{folder}: 1 distances are not those of the features in {run / 'features' / 'test'} to their centroids"
    ]


def test_labels_that_are_moved_to_other_samples_are_found(run):
    """Sizes, counts and ranges all hold; only the features tell."""
    folder = run / "labels" / "test"
    labels = PseudoLabels.open(folder)
    turned = np.array(labels.labels)
    readable = np.flatnonzero(turned >= 0)
    turned[readable] = np.roll(turned[readable], 1)
    rewrite_array(folder, "labels.npy", turned)
    assert len(problems(run)) == 1
    assert "distances are not those of the features" in problems(run)[0]


def test_an_objective_that_the_features_do_not_have_is_found(run):
    objective = Codebook.open(run / "codebook").manifest["objective"]
    rewrite_codebook(run, objective=[*objective[:-1], objective[-1] * 0.99])
    assert len(problems(run)) == 1
    assert f"the objective of the last iteration is {objective[-1] * 0.99}, but its features are" in problems(run)[0]


def test_counts_that_the_labels_do_not_have_are_found(run):
    counts = np.array(Codebook.open(run / "codebook").counts)
    counts[:2] += [1, -1]
    rewrite_codebook(run, "counts.npy", counts)
    assert problems(run) == [
        f"{run / 'codebook'}: 2 clusters have other counts than labels, though the clustering converged"
    ]


def test_a_centroid_that_is_not_the_mean_of_its_features_is_found(run):
    """Distances are those to the moved centroid, so that labels and codebook agree with each other."""
    centroids = np.array(Codebook.open(run / "codebook").centroids)
    features = np.concatenate([np.load(path) for path in sorted((run / "features/train").glob("rows-*.npy"))])
    folder = run / "labels" / "train"
    labels = PseudoLabels.open(folder)
    label, distances = np.array(labels.labels), np.array(labels.distances)
    centroids[2] += 0.05
    mine = label == 2
    distances[mine] = np.square(features[mine].astype(np.float64) - centroids[2]).sum(axis=1)
    rewrite_array(folder, "distances.npy", distances)
    objective = Codebook.open(run / "codebook").manifest["objective"]
    rewrite_codebook(run, "centroids.npy", centroids, objective=[*objective[:-1], objective[-1] * 2])
    found = [problem for problem in problems(run) if "labels/test" not in problem]
    assert found == [f"{run / 'codebook'}: 1 centroids are not the means of their features"]
