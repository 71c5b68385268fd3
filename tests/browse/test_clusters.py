"""Samples by cluster, against what a loop over the samples gives."""

import numpy as np
import pytest

from vissl_clusterfit.browse.clusters import chosen_clusters, group_by_cluster

N, K = 500, 12
RANDOM = np.random.default_rng(3)
LABELS = RANDOM.integers(-1, K - 1, N)  # the last cluster is empty
DISTANCES = RANDOM.random(N).astype(np.float32)
MARGINS = RANDOM.random(N).astype(np.float32) * 0.3


@pytest.fixture(scope="module")
def clusters():
    return group_by_cluster(LABELS, K, DISTANCES, MARGINS, tolerance=0.1)


def members_of(cluster: int) -> list[int]:
    return sorted(np.flatnonzero(cluster == LABELS).tolist(), key=lambda sample: DISTANCES[sample])


@pytest.mark.parametrize("cluster", range(K))
def test_samples_of_a_cluster_are_in_the_order_of_their_distances(clusters, cluster):
    members = members_of(cluster)
    assert clusters.members(cluster).tolist() == members
    assert clusters.nearest(cluster, 3).tolist() == members[:3]
    assert clusters.farthest(cluster, 3).tolist() == members[3:][::-1][:3]
    border = sorted(members, key=lambda sample: MARGINS[sample] / DISTANCES[sample])
    assert clusters.at_border(cluster, 4).tolist() == border[:4]


@pytest.mark.parametrize("cluster", range(K))
def test_figures_of_a_cluster_are_the_means_over_its_samples(clusters, cluster):
    members = members_of(cluster)
    assert clusters.sizes[cluster] == len(members)
    if not members:
        assert np.isnan([clusters.mean_distances[cluster], clusters.undecided[cluster]]).all()
        return
    assert clusters.mean_distances[cluster] == pytest.approx(DISTANCES[members].mean(), rel=1e-6)
    assert clusters.undecided[cluster] == np.mean(MARGINS[members] <= np.float32(0.1) * DISTANCES[members])


def test_empty_and_giant_clusters_are_found():
    labels = np.repeat([0, 1, 2, 4], [5, 50, 4, 6])
    clusters = group_by_cluster(labels, 6)
    assert clusters.empty.tolist() == [3, 5]
    assert clusters.giants.tolist() == []
    clusters = group_by_cluster(np.repeat([0, 1, 2, 4], [5, 55, 5, 200]), 6)
    assert clusters.giants.tolist() == []  # the median one has 30
    clusters = group_by_cluster(np.repeat([0, 1, 2, 3, 4], [5, 5, 5, 50, 200]), 5)
    assert clusters.giants.tolist() == [4, 3]


def test_no_sample_and_no_label_are_no_error():
    clusters = group_by_cluster(np.full(7, -1), 3, DISTANCES[:7], MARGINS[:7])
    assert (clusters.empty.tolist(), clusters.giants.tolist()) == ([0, 1, 2], [])
    assert chosen_clusters(clusters, 2) == {}


def test_chosen_clusters_are_what_they_are_called_and_each_is_shown_once(clusters):
    chosen = chosen_clusters(clusters, 2)
    sizes = np.bincount(LABELS[LABELS >= 0], minlength=K)
    assert [*chosen] == ["largest", "smallest", "least compact", "random"]
    assert sorted(sizes[chosen["largest"]])[::-1] == sorted(sizes)[::-1][:2]
    assert sorted(sizes[chosen["smallest"]]) == sorted(sizes[sizes > 0])[:2]
    shown = [cluster for found in chosen.values() for cluster in found]
    assert len({*shown}) == len(shown) == 8
    assert K - 1 not in shown
    rest = [cluster for cluster in range(K - 1) if cluster not in chosen["largest"] + chosen["smallest"]]
    assert chosen["least compact"] == sorted(rest, key=lambda each: -clusters.mean_distances[each])[:2]


def test_without_distances_samples_are_in_their_own_order():
    clusters = group_by_cluster(LABELS, K)
    assert clusters.members(4).tolist() == np.flatnonzero(LABELS == 4).tolist()
    assert clusters.at_border(4, 3).tolist() == clusters.farthest(4, 3).tolist() == []
    assert "least compact" not in chosen_clusters(clusters, 2)
