"""Which of several nearly equal distances is the least does not depend on the order of additions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.search import tile
from vissl_clusterfit.search.differences import depend_on_the_order, plain_sum, same_sum
from vissl_clusterfit.search.torch_search import TorchSearch


@st.composite
def terms(draw):
    """(P, D) float64, squares of numbers that are as apart as differences of float32 can be."""
    shape = draw(st.integers(0, 5)), draw(st.sampled_from([1, 2, 3, 64, 777]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    decades = draw(st.sampled_from([0, 2, 30]))
    values = (
        rng.standard_normal(shape) * 10.0 ** rng.uniform(-decades, 0, shape) * draw(st.sampled_from([1e-44, 1.0, 1e38]))
    )
    values = np.clip(values, -3e38, 3e38)  # float32 has none that are larger
    values[rng.random(shape) < draw(st.sampled_from([0, 0.5, 1]))] = 0
    return torch.from_numpy(values.astype(np.float32).astype(np.float64) ** 2)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(terms=terms(), seed=st.integers(0, 2**32))
def test_the_sum_is_right_and_no_order_changes_it(terms, seed):
    found = same_sum(terms)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(terms.shape[1]))
    assert torch.equal(same_sum(terms[:, order]), found)
    for row, sum_ in zip(terms.tolist(), found.tolist(), strict=True):
        assert abs(sum_ - math.fsum(row)) <= 2.0**-52 * sum_


@settings(max_examples=200, deadline=None, derandomize=True)
@given(terms=terms())
def test_what_is_certain_is_so_of_sums_in_any_order(terms):
    """Sums of one row, in two orders: what needs no second look has the same order, and the same float32."""
    row = torch.zeros(len(terms), dtype=torch.int64)
    exact = same_sum(terms)
    for sums in (plain_sum(terms), plain_sum(terms.flip(1).contiguous())):
        order = sums.argsort(stable=True)
        certain = ~depend_on_the_order(row, sums[order], terms.shape[1])
        assert torch.equal(sums[order][certain].float(), exact[order][certain].float())
        made_again = torch.where(certain, sums[order], exact[order])
        assert torch.equal(exact[order][made_again.argsort(stable=True)], exact.sort().values)


@pytest.fixture
def symmetric():
    """Rows of equal numbers, and centroids that are permutations of one another: as far from each, in exact terms."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 1)).astype(np.float32).repeat(129, axis=1)
    kinds = rng.standard_normal((4, 129)).astype(np.float32)
    return rows, np.stack([rng.permutation(kinds[number % 4]) for number in range(40)])


def test_the_order_of_additions_would_decide(symmetric):
    """The data of the next test need what is done for them."""
    rows, centroids = (torch.from_numpy(values).double() for values in symmetric)
    sums = (rows[:, None] - centroids).square().sum(dim=2)
    assert (sums[:, :4] != sums[:, 4:8]).any()


@pytest.mark.parametrize("product_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [1 << 16, 7])
def test_equal_distances_go_to_the_lower_index_in_whatever_order_they_are_added(
    symmetric, product_type, most, monkeypatch
):
    monkeypatch.setattr(tile, "MOST_CENTROIDS", most)
    rows, centroids = symmetric
    exact = [
        [sum(Fraction(t) for t in (r - centroids.astype(np.float64)[k]) ** 2) for k in range(4)]
        for r in rows.astype(np.float64)
    ]
    expected = np.array([of.index(min(of)) for of in exact])
    found = []
    for order in (np.arange(129), np.arange(129)[::-1], np.random.default_rng(1).permutation(129)):
        search = TorchSearch(centroids[:, order], product_type=product_type)
        np.testing.assert_array_equal(search.labels(rows[:, order].copy()), expected)
        labels, distances = search.nearest(rows[:, order].copy(), 11)
        np.testing.assert_array_equal(labels[:, :10], expected[:, None] + 4 * np.arange(10))
        found.append((labels, distances))
    for labels, distances in found[1:]:
        np.testing.assert_array_equal(labels, found[0][0])
        np.testing.assert_array_equal(distances, found[0][1])
