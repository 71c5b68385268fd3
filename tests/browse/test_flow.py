"""Samples from clusters to groups, against sets of samples."""

import numpy as np
import pytest

from vissl_clusterfit.browse.flow import flow
from vissl_clusterfit.browse.folders import source_folders, sources_of

N, K, L = 400, 9, 7
RANDOM = np.random.default_rng(8)
LABELS = RANDOM.integers(-1, K - 1, N)
GROUPS = np.where(RANDOM.random(N) < 0.6, LABELS % L, RANDOM.integers(-1, L, N))
FOUND = flow(LABELS, GROUPS, K, L)


def samples(values: np.ndarray, number: int) -> set[int]:
    return {*np.flatnonzero((values == number) & (LABELS >= 0) & (GROUPS >= 0)).tolist()}


@pytest.mark.parametrize("cluster", range(K))
def test_a_cluster_flows_into_what_its_samples_have(cluster):
    counts = {group: len(samples(LABELS, cluster) & samples(GROUPS, group)) for group in range(L)}
    expected = sorted(((-count, group) for group, count in counts.items() if count))
    assert FOUND.of(cluster, L) == [(group, -count) for count, group in expected]
    assert FOUND.of(cluster, 2) == FOUND.of(cluster, L)[:2]
    assert FOUND.main_groups[cluster] == (expected[0][1] if expected else -1)
    own = samples(LABELS, cluster)
    if own:
        assert FOUND.main_shares[cluster] == max(counts.values()) / len(own)
        others = [samples(GROUPS, group) for group in range(L)]
        assert FOUND.stability[cluster] == max(len(own & other) / len(own | other) for other in others)
    else:
        assert np.isnan([FOUND.main_shares[cluster], FOUND.stability[cluster]]).all()


def test_renamed_clusters_are_found_again_to_the_last_sample():
    renamed = np.where(LABELS >= 0, (LABELS + 3) % K, -1)
    stability = flow(LABELS, renamed, K, K).stability
    assert stability[:-1].tolist() == [1.0] * (K - 1)


def test_folders_are_those_of_the_names():
    codes, names = source_folders(["b/x/1.jpg", "a/2.jpg", "b/x/3.jpg", "4.jpg", "a/5.jpg", "b/x/6.jpg"])
    assert (codes.tolist(), names) == ([2, 1, 2, 0, 1, 2], ["", "a", "b/x"])


def test_a_folder_for_each_sample_is_taken_by_the_first_part_of_its_path():
    codes, names = source_folders([f"{'ab'[number % 2]}/{number}/frame.jpg" for number in range(10)])
    assert (codes.tolist(), names) == ([0, 1] * 5, ["a", "b"])


def test_where_clusters_follow_folders_one_that_mixes_them_is_told():
    labels, folders = np.repeat([0, 1, 2], 20), np.repeat([0, 1, 2], 20)
    folders[:9] = 2
    found = sources_of(labels, folders, ["a", "b", "c"], 3)
    assert (found.mixed.tolist(), found.of_one.tolist(), found.usual_share) == ([0], [], 1.0)


def test_where_clusters_mix_folders_one_of_a_single_folder_is_told():
    labels = np.repeat([0, 1, 2, 3], 20)
    folders = np.tile([0, 1], 40)
    folders[:20] = 2
    found = sources_of(labels, folders, ["a", "b", "c"], 4)
    assert (found.mixed.tolist(), found.of_one.tolist(), found.usual_share) == ([], [0], 0.5)


def test_one_folder_or_one_for_each_sample_says_nothing():
    labels = np.zeros(6, dtype=np.int64)
    assert sources_of(labels, np.zeros(6, dtype=np.int64), ["a"], 1) is None
    assert sources_of(labels, np.arange(6), list("abcdef"), 1) is None
