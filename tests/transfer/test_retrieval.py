import itertools
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.transfer.retrieval import category_retrieval, retrieval_protocol


def features_of(labels, dim=16, seed=0, noise=2.0):
    centres = np.random.default_rng(0).normal(size=(labels.max() + 1, dim))
    return (centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), dim))).astype("f")


def unit(rows):
    return rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def by_hand(cosines, relevant):
    """The formula, for one query: of equal cosines the first."""
    hits = relevant[np.argsort(-np.round(cosines, 9), kind="stable")]
    places = np.flatnonzero(hits) + 1
    return np.mean(np.arange(1, len(places) + 1) / places) if len(places) else np.nan


@pytest.mark.parametrize("gallery_chunk", [7, 64, 8192])
def test_agrees_with_scikit_learn(gallery_chunk):
    rng = np.random.default_rng(1)
    wanted, present = rng.integers(5, size=40), rng.integers(5, size=90)
    queries, gallery = features_of(wanted), features_of(present, seed=3)
    result = category_retrieval(queries, wanted, gallery, present, gallery_chunk=gallery_chunk)
    cosines = unit(queries) @ unit(gallery).T
    expected = [average_precision_score(present == label, row) for label, row in zip(wanted, cosines, strict=True)]
    np.testing.assert_allclose(result.average_precisions, expected, rtol=1e-12)
    assert result.mean_average_precision == pytest.approx(np.mean(expected))
    assert 0.25 < result.mean_average_precision < 0.9


def test_a_query_is_not_its_own_match_and_one_without_a_match_is_left_out(monkeypatch):
    rng = np.random.default_rng(2)
    labels = np.append(rng.integers(6, size=79), 9)  # the last one is alone in its class
    features = features_of(labels)
    monkeypatch.setattr("vissl_clusterfit.transfer.retrieval._KEYS", 1)
    monkeypatch.setattr("vissl_clusterfit.transfer.retrieval._LEAST_QUERIES", 17)
    result = category_retrieval(features, labels)
    cosines, others = unit(features) @ unit(features).T, ~np.eye(80, dtype=bool)
    expected = [by_hand(cosines[row, others[row]], (labels == labels[row])[others[row]]) for row in range(80)]
    np.testing.assert_allclose(result.average_precisions, expected, rtol=1e-12)
    assert result.num_without_match == 1
    assert result.mean_average_precision == pytest.approx(np.nanmean(expected))


def over_orders(cosines, relevant, num_orders=20_000):
    """The mean AP over orders of equal cosines that are drawn, for one query; all orders of a few samples."""
    rng, precisions = np.random.default_rng(0), []
    for _ in range(num_orders):
        order = rng.permutation(len(cosines))
        precisions.append(by_hand(cosines[order], relevant[order]))
    return np.mean(precisions)


def exact_of_equal(num_others, num_relevant):
    """AP of a ranking in which all are equal, in fractions: the mean over all orders."""
    total = Fraction(0)
    for place in range(1, num_others + 1):
        before = Fraction((place - 1) * (num_relevant - 1), max(1, num_others - 1))
        total += Fraction(1, num_others) * (1 + before) / place
    return float(total)


def test_equally_similar_samples_count_by_the_mean_over_their_orders():
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=30)
    features = rng.normal(size=(4, 8))[rng.integers(4, size=30)]  # many copies, whatever the class
    result = category_retrieval(features[:6], labels[:6], features, labels, gallery_chunk=13)
    cosines = unit(features[:6]) @ unit(features).T
    expected = [over_orders(row, labels == label, 4000) for row, label in zip(cosines, labels[:6], strict=True)]
    np.testing.assert_allclose(result.average_precisions, expected, atol=4e-3)
    order = rng.permutation(30)
    again = category_retrieval(features[:6], labels[:6], features[order], labels[order])
    np.testing.assert_allclose(again.average_precisions, result.average_precisions, rtol=1e-12)


@pytest.mark.parametrize("rows", [np.ones((90, 4)), np.zeros((90, 4)), np.full((90, 4), 1e-30)])
def test_features_that_are_all_equal_give_what_chance_gives(rows):
    labels = np.repeat(np.arange(9), 10)
    result = category_retrieval(rows, labels)
    np.testing.assert_allclose(result.average_precisions, exact_of_equal(89, 9), rtol=1e-12)


def test_all_orders_of_a_tie_in_fractions():
    """One nearer sample, four tied ones of which two are relevant, one farther: all 24 orders, by hand."""
    gallery = np.array([[1.0, 0], [1, 1], [1, 1], [1, 1], [1, 1], [0, 1]])
    present = np.array([1, 0, 1, 0, 1, 1])
    precisions = []
    for order in itertools.permutations(range(1, 5)):
        hits = present[[0, *order, 5]]
        places = np.flatnonzero(hits) + 1
        precisions.append(np.mean(np.arange(1, 5) / places))
    result = category_retrieval(np.array([[1.0, 0]]), np.array([1]), gallery, present)
    assert result.mean_average_precision == pytest.approx(np.mean(precisions), rel=1e-14)


def test_a_worked_example():
    gallery = np.array([[np.cos(angle), np.sin(angle)] for angle in (0.1, 0.2, 0.3, 0.4)])
    result = category_retrieval(np.array([[1.0, 0.0]]), np.array([1]), gallery, np.array([0, 1, 0, 1]))
    assert result.mean_average_precision == pytest.approx((1 / 2 + 2 / 4) / 2)


@pytest.mark.parametrize("gallery", [(), (np.eye(3), np.array([5, 6, 7]))])
def test_queries_without_any_match_are_refused(gallery):
    with pytest.raises(DataError, match="The queries: found no query whose class"):
        category_retrieval(np.eye(3), np.arange(3), *gallery)


def test_the_protocol_says_who_is_ranked_and_who_is_left_out():
    assert "the query itself left out" in retrieval_protocol("test", 0)
    assert "the training split, ranked" in retrieval_protocol("train", 3)
    assert "3 queries without a relevant sample left out" in retrieval_protocol("train", 3)
