"""Products of whole numbers: both ways to them are exact, whatever the numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.search import integer_products
from vissl_clusterfit.search.integer_products import LARGEST


@pytest.mark.parametrize("way", [integer_products._in_8_bits, integer_products._in_float32], ids=["8 bits", "float32"])
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 70), st.integers(1, 70), st.integers(1, 2300)),
    seed=st.integers(0, 2**32 - 1),
    largest=st.booleans(),
)
def test_products_are_exact(way, shape, seed, largest):
    if way is integer_products._in_8_bits and not integer_products._is_exact_in_8_bits():
        pytest.skip("units of this processor add up in 16 bits")
    num_rows, num_others, dim = shape
    chance = torch.Generator().manual_seed(seed)

    def drawn(number):
        values = torch.randint(-LARGEST, LARGEST + 1, (number, dim), generator=chance, dtype=torch.int8)
        return values.sign() * LARGEST if largest else values

    rows, others = drawn(num_rows), drawn(num_others)
    found = torch.empty(num_rows, num_others, dtype=torch.int32)
    way(rows, others, found)
    torch.testing.assert_close(found.long(), rows.long() @ others.long().T, rtol=0, atol=0)


@pytest.fixture
def choose():
    """Chooses anew, and once more after the test."""
    integer_products._fast_product.cache_clear()
    yield integer_products._fast_product
    integer_products._fast_product.cache_clear()


def test_one_of_both_is_chosen_and_gives_the_same(choose):
    rows = torch.arange(-60, 60, dtype=torch.int8).view(8, 15)
    found = torch.empty(8, 8, dtype=torch.int32)
    integer_products.integer_products(rows, rows, found)
    torch.testing.assert_close(found.long(), rows.long() @ rows.long().T, rtol=0, atol=0)
    assert choose() in (integer_products._in_8_bits, integer_products._in_float32)


def test_units_that_add_up_pairs_in_16_bits_are_not_used(choose, monkeypatch):
    def in_16_bits(rows, others, out):
        out.zero_()
        for low in range(0, rows.shape[1], 2):  # as x86 without VNNI: x + 128 and y, in pairs
            unsigned, signed = rows[:, low : low + 2].int() + 128, others[:, low : low + 2].int()
            pairs = unsigned[:, None, :] * signed
            out.add_(pairs.sum(dim=2).clamp_(-(1 << 15), (1 << 15) - 1)).sub_(128 * signed.sum(dim=1))

    few = torch.ones(4, 6, dtype=torch.int8)
    found = torch.empty(4, 4, dtype=torch.int32)
    in_16_bits(few, few, found)
    assert (found == 6).all()
    monkeypatch.setattr(integer_products, "_in_8_bits", in_16_bits)
    assert not integer_products._is_exact_in_8_bits()
    assert choose() is integer_products._in_float32
