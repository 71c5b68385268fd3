"""Sums are the same to the last bit in any order, and right."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.clustering import reproducible_sums
from vissl_clusterfit.clustering.reproducible_sums import Accumulator, SquareSum, SumGrid, ValueRange, squared_norms

NUM_CLUSTERS = 5


def extent_of(rows):
    return ValueRange(float(np.abs(rows).max()), math.sqrt(np.square(rows, dtype=np.float64).mean()))


def totals(parts, extent, num_vectors):
    """Sums, counts and squares of parts (rows, labels) that are added one after the other."""
    dim = parts[0][0].shape[1]
    sums, squares = Accumulator(NUM_CLUSTERS, dim, extent, num_vectors), SquareSum(dim, extent, num_vectors)
    for rows, labels in parts:
        sums.add(np.ascontiguousarray(rows), labels)
        squares.add(squared_norms(np.ascontiguousarray(rows)))
    return sums.total(squares.total())


def assert_identical(found, expected):
    assert found.sums.tobytes() == expected.sums.tobytes()
    assert found.counts.tobytes() == expected.counts.tobytes()
    assert found.squares == expected.squares


@st.composite
def vectors(draw):
    """Rows (n, D) float32 over many orders of magnitude, and labels."""
    num_rows, dim = draw(st.integers(1, 300)), draw(st.sampled_from([1, 3, 64, 70, 130]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    decades, scale = draw(st.sampled_from([0, 1, 6, 30])), draw(st.sampled_from([1e-44, 1e-12, 1.0, 1e6, 1e30]))
    values = rng.standard_normal((num_rows, dim)) * 10.0 ** rng.uniform(-decades, 0, (num_rows, 1))
    with np.errstate(over="ignore"):
        rows = (values * scale + draw(st.sampled_from([0, 1, 100])) * scale).astype(np.float32)
    return rows, rng.integers(0, NUM_CLUSTERS - 1, num_rows)  # the last cluster stays empty


# Of how many vectors the source is said to be: many of them leave few bits for each.
sizes = st.sampled_from([300, 10**6, 10**9, 2**40])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=vectors(), num_vectors=sizes, seed=st.integers(0, 2**32), num_parts=st.integers(1, 12))
def test_no_order_and_no_division_changes_a_bit(data, num_vectors, seed, num_parts):
    rows, labels = data
    extent, rng = extent_of(rows), np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    cuts = np.sort(rng.integers(0, len(rows) + 1, num_parts - 1))
    parts = list(zip(np.split(rows[order], cuts), np.split(labels[order], cuts), strict=True))
    assert_identical(totals(parts, extent, num_vectors), totals([data], extent, num_vectors))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=vectors(), num_vectors=sizes)
def test_sums_are_right(data, num_vectors):
    """To within an ulp of float32 of the largest number in a mean, by a sum without any rounding."""
    rows, labels = data
    extent = extent_of(rows)
    found = totals([data], extent, num_vectors)
    np.testing.assert_array_equal(found.counts, np.bincount(labels, minlength=NUM_CLUSTERS))
    for k in range(NUM_CLUSTERS):
        members = rows[labels == k].astype(np.float64)
        expected = np.array([math.fsum(column) for column in members.T])
        # Each number is rounded by at most half the last grid, which is below typical * 2 ** -23.
        assert (np.abs(found.sums[k] - expected) <= len(members) * extent.typical * 2.0**-24).all()
        assert (np.abs(found.sums[k] - expected) <= max(1, len(members)) * np.spacing(np.float32(extent.largest))).all()
    squares = math.fsum(np.square(rows, dtype=np.float64).ravel())
    assert abs(found.squares - squares) <= 2.0**-22 * squares


@pytest.mark.parametrize("block_values", [1, 1000, 1 << 20])
def test_blocks_change_no_bit(block_values, monkeypatch):
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((500, 200)).astype(np.float32) * 1e3, rng.integers(0, NUM_CLUSTERS, 500)
    expected = totals([(rows, labels)], extent_of(rows), 2**30)
    monkeypatch.setitem(reproducible_sums._BLOCK_VALUES, "cpu", block_values)
    assert_identical(totals([(rows, labels)], extent_of(rows), 2**30), expected)


def test_the_usual_sum_would_depend_on_the_order():
    """The data of these tests need what is done for them."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1000).astype(np.float32) * 10.0 ** rng.uniform(-6, 0, 1000)
    assert len({values[rng.permutation(1000)].sum() for _ in range(20)}) > 1


@pytest.mark.parametrize("num_terms", [1, 1000, 10**9, 2**40])
@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("typical", [1e-40, 1.0, 1e25])
def test_parts_lie_on_grids_on_which_sums_are_exact(num_terms, ratio, typical):
    largest = typical * ratio
    grid = SumGrid(ValueRange(largest, typical), num_terms)
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.uniform(-largest, largest, 1000) * 10.0 ** rng.uniform(-6, 0, 1000))
    left = values.clone()
    bits = math.ceil(math.log2(max(num_terms, 2)))
    for part in grid.parts(values):
        # All are multiples of one power of two, and as many as are added stay below 2 ** 53 of it.
        smallest = min(math.frexp(x)[1] - 53 + _trailing_zeros(x) for x in part[part != 0].tolist() or [1.0])
        assert float(part.abs().max()) * 2.0**bits <= math.ldexp(1.0, smallest + 53) or not part.any()
        left -= part
    assert float(left.abs().max()) <= typical * 2.0**-24


def _trailing_zeros(value):
    mantissa = int(math.ldexp(abs(math.frexp(value)[0]), 53))
    return (mantissa & -mantissa).bit_length() - 1


def test_zeros_add_up_to_zero():
    rows = np.zeros((4, 3), dtype=np.float32)
    found = totals([(rows, np.zeros(4, dtype=np.int64))], ValueRange(0.0, 0.0), 4)
    assert not found.sums.any()
    assert (found.counts.tolist(), found.squares) == ([4, 0, 0, 0, 0], 0)
    assert found.objective(np.zeros((NUM_CLUSTERS, 3), dtype=np.float32)) == 0
