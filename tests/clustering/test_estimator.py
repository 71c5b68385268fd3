"""``KMeans`` under scikit-learn's own checks, and against the engine's pipeline and scikit-learn's estimator."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans as Reference
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.utils.estimator_checks import parametrize_with_checks

from vissl_clusterfit.clustering.estimator import KMeans
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig

_NO_WEIGHTS = "the engine counts each sample once: weights that differ are refused, never ignored"
REFUSED = {
    "check_sample_weights_not_overwritten": _NO_WEIGHTS,
    "check_sample_weight_equivalence_on_dense_data": _NO_WEIGHTS,
}


@parametrize_with_checks(
    [KMeans(), KMeans(metric="cosine"), KMeans(init="random", growing_sample=False)],
    expected_failed_checks=lambda estimator: REFUSED,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def exact_inertia(rows, estimator):
    difference = rows.astype(np.float64) - estimator.cluster_centers_[estimator.labels_].astype(np.float64)
    return (difference**2).sum()


@pytest.fixture
def many() -> np.ndarray:
    """(5000, 12) float32: enough samples for iterations that see a part of them."""
    rng = np.random.default_rng(3)
    return (4 * rng.standard_normal((9, 12))[rng.integers(9, size=5000)] + rng.standard_normal((5000, 12))).astype("f4")


def test_centers_are_those_of_a_codebook_with_the_same_seed(many, make_store, tmp_path):
    block = {"NUM_CLUSTERS": 9, "NUM_ITER": 15, "SEED": 4, "FEATURES": {"NORMALIZE": False}}
    codebook = fit_codebook(make_store(many), ClusterFitConfig.from_block(block), "cpu", tmp_path / "codebook")
    estimator = KMeans(9, max_iter=15, random_state=4).fit(many)
    assert np.array_equal(estimator.cluster_centers_, codebook.centroids)
    assert np.array_equal(estimator.labels_, codebook.search().labels(many))


def test_inertia_is_that_of_the_differences_in_float64(many):
    for rows in (many, many.astype(np.float64) + 1e-9):
        estimator = KMeans(9, random_state=0).fit(rows)
        assert estimator.inertia_ == pytest.approx(exact_inertia(rows, estimator), rel=1e-14)
        assert estimator.score(rows) == -estimator.inertia_


def test_from_the_same_centers_it_ends_where_scikit_learn_does(many):
    start = many[:9]
    estimator = KMeans(9, init=start, max_iter=300, growing_sample=False).fit(many)
    reference = Reference(9, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(many)
    assert adjusted_rand_score(estimator.labels_, reference.labels_) == 1
    np.testing.assert_allclose(estimator.cluster_centers_, reference.cluster_centers_, rtol=1e-5, atol=1e-5)
    assert estimator.inertia_ == pytest.approx(reference.inertia_, rel=1e-6)


def test_cosine_is_spherical(many):
    estimator = KMeans(9, metric="cosine", random_state=0).fit(many)
    np.testing.assert_allclose(np.linalg.norm(estimator.cluster_centers_, axis=1), 1, rtol=1e-6)
    assert np.array_equal(estimator.predict(3 * many), estimator.labels_)
    unit = normalize(many.astype(np.float64))
    assert estimator.inertia_ == pytest.approx(exact_inertia(unit, estimator), rel=1e-6)
    np.testing.assert_allclose(estimator.transform(many).argmin(axis=1), estimator.labels_)


def test_transform_is_the_distance_to_each_center(many):
    estimator = KMeans(9, random_state=0).fit(many)
    expected = np.linalg.norm(many[:, None].astype(np.float64) - estimator.cluster_centers_, axis=2)
    np.testing.assert_allclose(estimator.transform(many.astype(np.float64)), expected, rtol=1e-6, atol=1e-6)
    assert estimator.transform(many).dtype == np.float32
    assert list(estimator.get_feature_names_out()) == [f"kmeans{number}" for number in range(9)]


def test_a_memory_map_is_clustered_as_the_array_is(many, tmp_path):
    np.save(tmp_path / "rows.npy", many)
    mapped = KMeans(9, random_state=1).fit(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert np.array_equal(mapped.labels_, KMeans(9, random_state=1).fit_predict(many))


def test_it_is_cloned_pickled_and_part_of_a_pipeline(many):
    pipeline = make_pipeline(KMeans(9, random_state=2))
    labels = pipeline.fit_predict(many)
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(again.predict(many), labels)
    assert clone(pipeline[0]).get_params()["n_clusters"] == 9
    with np.errstate(all="raise"):
        assert KMeans(9, random_state=np.random.RandomState(0)).fit_transform(many).shape == (5000, 9)


def test_equal_weights_change_nothing_and_others_are_refused(many):
    weights = np.full(len(many), 0.5)
    assert np.array_equal(
        KMeans(9, random_state=0).fit(many, sample_weight=weights).labels_, KMeans(9, random_state=0).fit(many).labels_
    )
    weights[0] = 2
    with pytest.raises(ValueError, match=r"sample_weight: found weights from 0\.5 to 2; allowed: None, or the same"):
        KMeans(9).fit(many, sample_weight=weights)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_clusters": 0}, "n_clusters: found 0; allowed: a whole number, 1 or more"),
        ({"n_clusters": 2.0}, "n_clusters: found 2.0; allowed"),
        ({"max_iter": True}, "max_iter: found True; allowed"),
        ({"metric": "l2"}, r"metric: found 'l2'; allowed: euclidean \| cosine"),
        (
            {"init": "k-means"},
            r"init: found 'k-means'; allowed: k-means\+\+ \| random \| hierarchical \| an array of first centers",
        ),
        ({"init": np.zeros((2, 12))}, r"init: found an array of shape \(2, 12\); allowed: one of shape \(8, 12\)"),
        ({"random_state": -1}, "random_state: found -1; allowed: a whole number, 0 or more"),
        ({"device": "gpu"}, r"device: found 'gpu'; allowed: cpu \| cuda"),
        ({"n_clusters": 5001}, "n_samples=5000 must be at least n_clusters=5001"),
    ],
)
def test_a_wrong_parameter_is_named(many, changes, message):
    with pytest.raises(ValueError, match=message):
        KMeans(**{"n_clusters": 8, **changes}).fit(many)


def test_values_that_float32_does_not_have_are_refused(many):
    rows = many.astype(np.float64)
    rows[7, 3] = 1e39
    with pytest.raises(ValueError, match=r"values beyond 3\.4e\+38"):
        KMeans(2).fit(rows)
