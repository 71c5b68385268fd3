"""Vectors that are assigned again and again: only those that change their cluster are added up, to the same bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.clustering.minibatches import equal_parts, seen_again, steps
from vissl_clusterfit.clustering.protocol import ALL
from vissl_clusterfit.clustering.reproducible_sums import Accumulator
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch

HALVES = equal_parts(2)


def same_bits(found, expected):
    assert found.sums.tobytes() == expected.sums.tobytes()
    assert found.counts.tolist() == expected.counts.tolist()
    assert found.squares == expected.squares


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), num_clusters=st.integers(1, 40), exponents=st.sampled_from([(0, 1), (-12, 12)]))
def test_sums_have_the_bits_of_new_ones(seed, num_clusters, exponents):
    """Of numbers that span a wide range, too, whose sums are in several bins."""
    rng = np.random.default_rng(seed)
    rows = np.exp2(rng.integers(*exponents, (700, 1))) * rng.standard_normal((700, 5))
    rows = rows.astype(np.float32)
    source, again = ArraySource(rows), ArraySource(rows).remembering(HALVES)
    centroids = rows[rng.choice(700, num_clusters, replace=False)]
    for share in [*HALVES, HALVES[0], HALVES[0], *HALVES, ALL, HALVES[1]]:
        search = TorchSearch(centroids)
        expected = source.accumulate(search, share)
        same_bits(again.accumulate(search, share), expected)
        filled = expected.counts > 0
        centroids[filled] = expected.sums[filled] / expected.counts[filled, None]


def test_what_was_given_before_stays_as_it_was(blobs):
    again = ArraySource(blobs).remembering(HALVES)
    first = again.accumulate(TorchSearch(blobs[:9]), HALVES[0])
    kept = first.sums.copy(), first.counts.copy()
    again.accumulate(TorchSearch(blobs[9:18]), HALVES[0])
    assert np.array_equal(first.sums, kept[0])
    assert np.array_equal(first.counts, kept[1])


def test_the_source_that_it_was_made_of_remembers_nothing(blobs):
    source = ArraySource(blobs)
    source.remembering(HALVES).accumulate(TorchSearch(blobs[:9]), HALVES[0])
    assert source.accumulate(TorchSearch(blobs[:4]), HALVES[0]).sums.shape == (4, blobs.shape[1])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_only_vectors_that_change_their_cluster_are_added(blobs, monkeypatch, num_threads):
    added = []
    change = Accumulator._change
    monkeypatch.setattr(
        Accumulator, "_change", lambda self, rows, ways: (added.append(len(rows)), change(self, rows, ways))
    )
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        again = ArraySource(blobs).remembering(HALVES)
        one, other = TorchSearch(blobs[:9]), TorchSearch(np.concatenate([blobs[:8], blobs[8:9] + 0.01]))
        again.accumulate(one, HALVES[0])
        assert sum(added) == len(positions_of(blobs, HALVES[0]))
        added.clear()
        again.accumulate(one, HALVES[0])
        assert sum(added) == 0
        again.accumulate(other, HALVES[0])
        labels = [search.labels(blobs[positions_of(blobs, HALVES[0])]) for search in (one, other)]
        assert sum(added) == (labels[0] != labels[1]).sum()
    finally:
        torch.set_num_threads(before)


def positions_of(rows, share):
    return np.concatenate(list(ArraySource(rows).positions(share)))


@pytest.mark.parametrize(
    ("num_vectors", "hierarchical", "parts"),
    [(60_000, False, 2), (60_000, True, 4), (40_000, False, 4), (100_000, False, 0)],
)
def test_parts_are_remembered_where_they_are_few(num_vectors, hierarchical, parts):
    """Of eighths, sums would take a sixth of the memory of the vectors."""
    plan = steps(20, num_vectors, 1000, growing=True, hierarchical=hierarchical)
    assert sorted(seen_again(plan)) == sorted(equal_parts(parts) if parts else ())
    assert seen_again(steps(20, num_vectors, 1000, growing=False)) == ()
