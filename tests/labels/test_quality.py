import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.labels import quality
from vissl_clusterfit.labels.quality import adjusted_mutual_information, agreement, size_statistics, undecided_share


def test_sizes_by_hand():
    found = size_statistics(np.array([2, 0, 6, 0, 2]))
    assert (found.num_clusters, found.num_empty, found.smallest, found.median, found.largest) == (5, 2, 0, 2.0, 6)
    assert found.imbalance == 3.0
    assert found.effective_clusters == pytest.approx(math.exp(-(0.6 * math.log(0.6) + 0.4 * math.log(0.2))))


@pytest.mark.parametrize(("sizes", "effective"), [([7] * 9, 9), ([0, 5, 0], 1), ([0, 0], 0)])
def test_effective_clusters_at_the_ends(sizes, effective):
    assert size_statistics(np.array(sizes)).effective_clusters == pytest.approx(effective)


def test_agreement_by_hand():
    # Cluster 0 has classes 0 0 1, cluster 1 has 1 1 2; two samples have only one of the labels.
    found = agreement(np.array([0, 0, 0, 1, 1, 1, -1, 1]), np.array([0, 0, 1, 1, 1, 2, 0, -1]))
    assert (found.num_compared, found.num_left_out) == (6, 2)
    assert found.purity == pytest.approx(4 / 6)
    assert found.inverse_purity == pytest.approx((2 + 2 + 1) / 6)
    # Of the 15 pairs, 6 are together in the clusters, 4 in the classes, 2 in both.
    chance = 6 * 4 / 15
    assert found.adjusted_rand == pytest.approx((2 - chance) / ((6 + 4) / 2 - chance))
    information = 2 / 6 * math.log(2) + 1 / 6 * math.log(2 / 3) + 2 / 6 * math.log(4 / 3) + 1 / 6 * math.log(2)
    entropies = math.log(2), math.log(3) * 2 / 6 + math.log(2) * 3 / 6 + math.log(6) * 1 / 6
    assert found.nmi == pytest.approx(information / (sum(entropies) / 2))


def test_agreement_is_that_of_scikit_learn_on_the_labelled_samples():
    rng = np.random.default_rng(0)
    labels, others = rng.integers(-1, 30, 5000), rng.integers(-1, 4, 5000)
    others = np.where(rng.random(5000) < 0.5, labels % 4, others)
    both = (labels >= 0) & (others >= 0)
    found = agreement(labels, others)
    assert found.num_compared == both.sum() < 5000
    assert found.nmi == normalized_mutual_info_score(labels[both], others[both])
    assert found.adjusted_rand == adjusted_rand_score(labels[both], others[both])
    counts = np.zeros((30, 4))
    np.add.at(counts, (labels[both], others[both]), 1)
    assert found.purity == counts.max(axis=1).sum() / both.sum()
    assert found.inverse_purity == counts.max(axis=0).sum() / both.sum()


def test_names_of_clusters_do_not_matter():
    labels = np.random.default_rng(0).integers(0, 10, 500)
    found = agreement(labels, (3 * labels + 1) % 10)
    assert (found.nmi, found.adjusted_rand, found.purity, found.inverse_purity) == (pytest.approx(1), 1, 1, 1)


def test_labels_by_chance_do_not_agree():
    rng = np.random.default_rng(0)
    assert abs(agreement(rng.integers(0, 10, 20_000), rng.integers(0, 10, 20_000)).adjusted_rand) < 0.005


@pytest.mark.filterwarnings("error")
def test_a_million_clusters_take_no_table_of_all_pairs():
    labels = np.random.default_rng(0).permutation(1_000_000)
    found = agreement(labels, labels[::-1])
    assert (found.num_compared, found.purity, found.adjusted_rand) == (1_000_000, 1.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "others", "message"),
    [
        (np.arange(3), np.arange(4), "found labels of 3 samples and of 4; allowed: two of the same samples"),
        (np.array([-1, 0]), np.array([0, -1]), "found no sample with a label in both"),
        (np.arange(3), np.array([0, 1, -2]), "other labels: found the label -2; allowed: .* integers, 0 or more"),
        (np.arange(3.0), np.arange(3), r"labels: found \(3,\) of float64; allowed: \(N,\) integers"),
        (np.zeros((3, 2), dtype=int), np.arange(3), r"labels: found \(3, 2\) of int64"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels, others, message):
    with pytest.raises(DataError, match=message):
        agreement(labels, others)


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, 1 / 4), (0.1, 2 / 4), (2.0, 3 / 4)])
@pytest.mark.parametrize("block_rows", [1 << 20, 2])
def test_undecided_samples_by_hand(monkeypatch, tolerance, expected, block_rows):
    monkeypatch.setattr(quality, "_BLOCK_ROWS", block_rows)
    labels = np.array([0, 1, -1, 1, 0])
    distances = np.array([1.0, 2.0, -1.0, 4.0, 5.0], dtype=np.float32)
    margins = np.array([0.0, 0.125, -1.0, 8.0, np.inf], dtype=np.float32)
    assert undecided_share(labels, distances, margins, tolerance) == expected


def test_where_nothing_is_labelled_nothing_is_undecided():
    assert undecided_share(np.array([-1]), np.full(1, -1, "f4"), np.full(1, -1, "f4"), 0.05) == 0


def test_labels_say_all_whatever_their_names_and_nothing_where_they_are_chance():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 7, 1000)
    assert adjusted_mutual_information((3 * true + 1) % 7, true) == pytest.approx(1)
    # Fifty clusters of chance: mutual information that is not adjusted would find something.
    assert adjusted_mutual_information(rng.integers(0, 50, 1000), true) == pytest.approx(0, abs=0.02)


def test_samples_without_a_label_say_nothing():
    true = np.arange(1000) % 7
    assert adjusted_mutual_information(np.where(np.arange(1000) % 2, true, -1), true) == pytest.approx(1)
