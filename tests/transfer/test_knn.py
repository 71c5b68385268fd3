import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ClusterFitError, ConfigError, DataError
from vissl_clusterfit.transfer.knn import KnnSettings, knn_hits, knn_predict


@pytest.fixture(scope="module")
def digits():
    """Training features and labels, test features and labels: raw pixels, no two of equal direction."""
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(features))
    features = features[order] + np.random.default_rng(1).normal(scale=1e-3, size=features.shape)
    labels = labels[order]
    return features[:1300], labels[:1300], features[1300:], labels[1300:]


def at_angles(*degrees):
    """Unit vectors in the plane."""
    return np.array([[np.cos(np.radians(angle)), np.sin(np.radians(angle))] for angle in degrees])


@pytest.mark.parametrize("num_neighbors", [1, 2, 10, 200, 1300])
def test_majority_vote_agrees_with_scikit_learn(digits, num_neighbors):
    gallery, gallery_labels, queries, query_labels = digits
    reference = KNeighborsClassifier(num_neighbors, metric="cosine", algorithm="brute")
    reference.fit(gallery, gallery_labels)
    settings = KnnSettings(num_neighbors, vote="majority")
    predicted = knn_predict(queries, gallery, gallery_labels, settings)
    np.testing.assert_array_equal(predicted, reference.predict(queries))
    [hits] = knn_hits(queries, query_labels, gallery, gallery_labels, settings)
    assert hits / len(queries) == pytest.approx(reference.score(queries, query_labels), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
@pytest.mark.parametrize("num_neighbors", [1, 20, 200])
def test_weighted_vote_agrees_with_scikit_learn(digits, num_neighbors, temperature):
    gallery, gallery_labels, queries, _ = digits
    reference = KNeighborsClassifier(
        num_neighbors,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / temperature),
    )
    reference.fit(gallery, gallery_labels)
    predicted = knn_predict(queries, gallery, gallery_labels, KnnSettings(num_neighbors, temperature))
    np.testing.assert_array_equal(predicted, reference.predict(queries))


def test_weighted_vote_is_the_formula(digits):
    gallery, gallery_labels, queries, _ = digits
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    ).T
    expected = []
    for row in cosines:
        nearest = np.argsort(-row)[:15]
        expected.append(np.bincount(gallery_labels[nearest], weights=np.exp(row[nearest] / 0.5)).argmax())
    predicted = knn_predict(queries, gallery, gallery_labels, KnnSettings(15, 0.5))
    np.testing.assert_array_equal(predicted, expected)


def test_votes_differ_where_one_near_sample_faces_two_far_ones():
    gallery, labels, query = at_angles(10, 60, 61), np.array([3, 8, 8]), at_angles(0)
    assert knn_predict(query, gallery, labels, KnnSettings(3, 0.07)).tolist() == [3]
    assert knn_predict(query, gallery, labels, KnnSettings(3, 0.07, vote="majority")).tolist() == [8]
    # exp(cos / T) evens out as T grows.
    assert knn_predict(query, gallery, labels, KnnSettings(3, 100.0)).tolist() == [8]


@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_equal_votes_go_to_the_smallest_class(vote):
    # Mirror images left and right of the query: cosines, and so votes, are exactly equal.
    gallery, labels = at_angles(-40, 20, 40, -20), np.array([9, 9, 4, 4])
    assert knn_predict(at_angles(0), gallery, labels, KnnSettings(4, vote=vote)).tolist() == [4]


def test_equal_weighted_votes_are_equal_whatever_stands_between():
    # Classes 4 and 9 hold mirror images of each other, in another order; 0 and 5 change every running sum.
    generator = np.random.default_rng(7)
    for _ in range(50):
        angles = generator.uniform(5, 40, size=6)
        others = generator.uniform(50, 90, size=4)
        gallery = at_angles(*angles, *-generator.permutation(angles), *others)
        labels = np.array([9] * 6 + [4] * 6 + [0, 5, 0, 5])
        assert knn_predict(at_angles(0), gallery, labels, KnnSettings(16, 0.3)).tolist() == [4]


@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_of_equal_neighbors_the_first_votes(vote):
    gallery, labels = np.repeat(at_angles(30), 5, axis=0), np.array([7, 2, 2, 2, 2])
    settings = KnnSettings(1, vote=vote)
    assert knn_predict(at_angles(0), gallery, labels, settings).tolist() == [7]
    assert knn_predict(at_angles(0), gallery[::-1], labels[::-1], settings).tolist() == [2]


@pytest.mark.parametrize("vote", ["weighted", "majority"])
@pytest.mark.parametrize(("query_chunk", "gallery_chunk"), [(1, 3), (50, 17)])
def test_chunks_do_not_change_predictions_among_ties(vote, query_chunk, gallery_chunk):
    generator = np.random.default_rng(5)
    gallery = np.repeat(generator.normal(size=(12, 6)), 10, axis=0)
    labels, queries = generator.integers(0, 5, size=120), generator.normal(size=(80, 6))
    settings = KnnSettings(15, vote=vote)
    predicted = knn_predict(queries, gallery, labels, settings, query_chunk=query_chunk, gallery_chunk=gallery_chunk)
    np.testing.assert_array_equal(predicted, knn_predict(queries, gallery, labels, settings))


def test_a_tiny_temperature_is_the_nearest_neighbor(digits):
    gallery, gallery_labels, queries, _ = digits
    sharp = knn_predict(queries, gallery, gallery_labels, KnnSettings(50, 1e-7))
    np.testing.assert_array_equal(sharp, knn_predict(queries, gallery, gallery_labels, KnnSettings(1)))


def test_classes_may_be_many_and_far_apart():
    gallery = np.random.default_rng(6).normal(size=(500, 32)).astype(np.float32)
    labels = np.arange(500) * 10**12
    np.testing.assert_array_equal(knn_predict(gallery, gallery, labels, KnnSettings(10)), labels)


def test_one_class_and_one_query_are_enough():
    assert knn_predict(np.ones((1, 2)), np.ones((3, 2)), np.zeros(3, dtype=int), KnnSettings(2)).tolist() == [0]


def test_a_class_that_the_gallery_lacks_counts_as_wrong():
    gallery, labels = at_angles(0, 90), np.array([0, 1])
    queries, query_labels = at_angles(5, 85, 80, 10), np.array([0, 1, 5, 6])
    assert knn_hits(queries, query_labels, gallery, labels, KnnSettings(1)).tolist() == [2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_gpu_predicts_what_the_cpu_predicts(digits, vote):
    gallery, gallery_labels, queries, _ = digits
    settings = KnnSettings(30, vote=vote)
    np.testing.assert_array_equal(
        knn_predict(queries, gallery, gallery_labels, settings, device="cuda"),
        knn_predict(queries, gallery, gallery_labels, settings),
    )


def test_a_gallery_smaller_than_k_is_refused():
    with pytest.raises(ClusterFitError, match="num_neighbors: found 20; allowed: 1 to 5"):
        knn_predict(np.ones((2, 3)), np.ones((5, 3)), np.zeros(5, dtype=int), KnnSettings(20))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4, dtype=int), r"gallery_labels: found shape \(4,\); allowed: \(5,\), one per sample"),
        (np.zeros(5), "gallery_labels: found dtype float64; allowed: whole numbers"),
        (np.array([0, 1, -1, 2, 3]), "gallery_labels: found -1; allowed: numbers from 0. -1 marks samples"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        knn_predict(np.ones((2, 3)), np.ones((5, 3)), labels, KnnSettings(1))


def test_query_labels_are_checked_before_anything_is_computed():
    with pytest.raises(DataError, match=r"query_labels: found shape \(3,\); allowed: \(2,\)"):
        knn_hits(np.ones((2, 3)), np.arange(3), np.ones((5, 3)), np.arange(5), KnnSettings(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"NUM_NEIGHBORS": 0}, "KNN.NUM_NEIGHBORS: found 0; allowed: at least 1"),
        ({"TEMPERATURE": 0}, "KNN.TEMPERATURE: found 0.0; allowed: above 0"),
        ({"TEMPERATURE": float("nan")}, "KNN.TEMPERATURE: found nan"),
        ({"TEMPERATURE": float("inf")}, "KNN.TEMPERATURE: found inf"),
        ({"VOTE": "mean"}, "KNN.VOTE: found 'mean'; allowed: 'weighted' | 'majority'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        read_settings(KnnSettings, settings, "config.TRANSFER.KNN")


def test_protocol_says_all_that_defines_the_figure():
    assert KnnSettings(200, 0.1).protocol() == (
        "exact kNN on frozen features scaled to unit L2 norm; the 200 samples of the training split with the "
        "greatest cosine similarity, of equal ones the first; weighted vote, exp(cosine / 0.1) (Wu et al., "
        "CVPR 2018, section 3.4), of equal classes the smallest number"
    )
    assert KnnSettings(5, vote="majority").protocol("VOC07 trainval") == (
        "exact kNN on frozen features scaled to unit L2 norm; the 5 samples of VOC07 trainval with the "
        "greatest cosine similarity, of equal ones the first; majority vote, of equal classes the smallest "
        "number"
    )
