"""Near-copies, against all pairs of all samples."""

import numpy as np
import pytest

from vissl_clusterfit.browse import copies
from vissl_clusterfit.browse.clusters import group_by_cluster
from vissl_clusterfit.browse.copies import NEAR, near_copies, unit
from vissl_clusterfit.features.arrays import ArrayFeatures

RANDOM = np.random.default_rng(11)


def planted(num_samples: int, dim: int, num_clusters: int, num_copies: int):
    """Features around centroids, some of them nearly, and some of them exactly, those of others; shuffled."""
    centers = RANDOM.standard_normal((num_clusters, dim)) * 2
    labels = np.arange(num_samples) % num_clusters
    rows = centers[labels] + RANDOM.standard_normal((num_samples, dim))
    of_whom = RANDOM.integers(0, num_samples // 2, num_copies)
    noise = RANDOM.standard_normal((num_copies, dim)) * 0.02 * (np.arange(num_copies) % 2)[:, None]
    rows = np.concatenate([rows, rows[of_whom] + noise]).astype(np.float32)
    labels = np.concatenate([labels, labels[of_whom]])
    order = RANDOM.permutation(len(rows))
    return rows[order], labels[order]


def grouped(rows: np.ndarray, labels: np.ndarray, num_clusters: int):
    distances = np.empty(len(rows), dtype=np.float32)
    means = [unit(rows)[labels == cluster].mean(axis=0) for cluster in range(num_clusters)]
    distances[:] = ((unit(rows) - np.stack(means)[labels]) ** 2).sum(axis=1)
    return group_by_cluster(labels, num_clusters, distances, np.ones_like(distances))


def chained(rows: np.ndarray, labels: np.ndarray, limit: float) -> set[frozenset[int]]:
    """Groups of samples of a cluster that are near one to the next, by all pairs."""
    near = ((unit(rows)[:, None] - unit(rows)[None]) ** 2).sum(axis=2) <= limit
    near &= labels[:, None] == labels
    groups, todo = set(), {*range(len(rows))}
    while todo:
        group, new = set(), {todo.pop()}
        while new:
            group |= new
            new = {*np.flatnonzero(near[[*new]].any(axis=0)).tolist()} - group
        todo -= group
        if len(group) > 1:
            groups.add(frozenset(group))
    return groups


@pytest.mark.parametrize("dim", [8, 200])
def test_copies_are_those_that_all_pairs_show(dim):
    rows, labels = planted(600, dim, 5, 60)
    clusters = grouped(rows, labels, 5)
    found = near_copies(ArrayFeatures(rows), clusters)
    mean_square = np.mean(
        [((unit(rows)[labels == each] - unit(rows)[labels == each].mean(0)) ** 2).sum(1).mean() for each in range(5)]
    )
    assert found.limit == pytest.approx(NEAR * mean_square, rel=0.2)
    assert {frozenset(group.tolist()) for group in found.groups} == chained(rows, labels, found.limit)
    assert len(found.groups) >= 40
    for group in found.groups:
        assert (found.originals[group[1:]] == group[0]).all()
        assert found.originals[group[0]] == -1
    assert found.num_copies == sum(len(group) - 1 for group in found.groups)
    assert [len(group) for group in found.groups] == sorted(map(len, found.groups), reverse=True)


def test_in_a_large_cluster_exact_copies_are_all_found(monkeypatch):
    monkeypatch.setattr(copies, "LARGEST_WHOLE", 50)
    rows, labels = planted(900, 40, 2, 80)
    found = near_copies(ArrayFeatures(rows), grouped(rows, labels, 2))
    same = {}
    for sample, row in enumerate(rows):
        same.setdefault(row.tobytes(), []).append(sample)
    exact = [group for group in same.values() if len(group) > 1]
    assert len(exact) >= 30
    for group in exact:
        roots = {int(found.originals[sample]) if found.originals[sample] >= 0 else sample for sample in group}
        assert len(roots) == 1


def test_thousands_of_copies_of_one_picture_are_one_group():
    rows = np.concatenate([np.tile(RANDOM.standard_normal((1, 40)), (3000, 1)), RANDOM.standard_normal((50, 40))])
    labels = np.zeros(len(rows), dtype=np.int64)
    found = near_copies(ArrayFeatures(rows.astype(np.float32)), grouped(rows.astype(np.float32), labels, 1))
    assert [len(group) for group in found.groups] == [3000]


def test_without_copies_there_is_no_group():
    rows = RANDOM.standard_normal((300, 64)).astype(np.float32)
    labels = np.arange(300) % 4
    found = near_copies(ArrayFeatures(rows), grouped(rows, labels, 5 - 1))
    assert (found.num_copies, found.groups) == (0, [])
