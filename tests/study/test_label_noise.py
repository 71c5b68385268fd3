"""Wrong labels: exactly as many as asked, in the same places for every share of one seed."""

import numpy as np
import pytest

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.study.label_noise import wrong_labels

LABELS = np.random.default_rng(0).integers(0, 7, 1000)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_exactly_the_share_is_wrong_and_of_a_class_that_exists(share):
    made = wrong_labels(LABELS, share, seed=3)
    assert (made != LABELS).sum() == share * 1000
    assert (made.min(), made.max()) == (0, 6)
    assert made.dtype == LABELS.dtype


def test_wrong_classes_are_drawn_evenly_from_the_others():
    made = wrong_labels(np.full(60_000, 2), 1.0, seed=0)
    counts = np.bincount(made, minlength=3)
    np.testing.assert_array_equal(counts > 0, [True, True, False])
    made = wrong_labels(np.repeat([0, 1, 2, 3], 15_000), 1.0, seed=0)
    counts = np.bincount(made[:15_000], minlength=4)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 5000).max() < 5 * np.sqrt(5000)


def test_what_is_wrong_at_a_smaller_share_is_wrong_in_the_same_way_at_a_larger_one():
    small, large = wrong_labels(LABELS, 0.25, seed=1), wrong_labels(LABELS, 0.75, seed=1)
    wrong = small != LABELS
    np.testing.assert_array_equal(large[wrong], small[wrong])


def test_another_seed_makes_other_labels_wrong():
    first, second = (wrong_labels(LABELS, 0.5, seed) != LABELS for seed in (1, 2))
    assert 0.2 < (first & second).mean() < 0.3


def test_the_labels_given_are_left_as_they_are():
    labels = LABELS.copy()
    wrong_labels(labels, 1.0, seed=0)
    np.testing.assert_array_equal(labels, LABELS)


def test_one_class_cannot_be_mistaken():
    with pytest.raises(DataError, match="only one class"):
        wrong_labels(np.zeros(5, np.int64), 0.5, seed=0)
