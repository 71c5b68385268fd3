"""A pass over features on a card: the sums, labels and farthest vectors of a processor, to the bit, and few waits."""

import numpy as np
import pytest
import torch
from pretend_card import PretendedCard, pretended_card

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.reproducible_sums import Accumulator, ValueRange
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch

CARD = torch.device("cuda", 0)
there_is_none = not torch.cuda.is_available()
needs_card = pytest.mark.skipif(there_is_none, reason="there is no CUDA device")


@pytest.fixture(params=["pretended", pytest.param("real", marks=needs_card)])
def card(request, monkeypatch):
    if request.param == "real":
        yield None
    else:
        with pretended_card(monkeypatch) as card:
            yield card


@pytest.fixture
def rows():
    """(3000, 16) float32 over several orders of magnitude, so that sums have more than one bin."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3000, 16)) * 10.0 ** rng.uniform(-6, 0, (3000, 1))
    return values.astype(np.float32)


def identical(found, expected):
    assert found.sums.tobytes() == expected.sums.tobytes()
    assert found.counts.tobytes() == expected.counts.tobytes()
    assert found.squares == expected.squares


def test_sums_on_a_card_are_those_of_a_processor_in_any_order_and_wait_for_nothing(card, rows):
    labels = np.random.default_rng(1).integers(0, 7, len(rows))
    extent = ValueRange(float(np.abs(rows).max()), float(np.sqrt(np.square(rows, dtype=np.float64).mean())))
    here, there = (Accumulator(7, 16, extent, 10**9, device) for device in (None, CARD))
    assert len(here._sums) > 1
    here.add(rows, labels)
    order = np.random.default_rng(2).permutation(len(rows))
    parts = [
        (torch.from_numpy(rows[of]).to(CARD), torch.from_numpy(labels[of]).to(CARD)) for of in (order[:99], order[99:])
    ]
    if isinstance(card, PretendedCard):
        card.waits.clear()
    for part in parts:
        there.add(*part)
    if isinstance(card, PretendedCard):
        assert not card.waits
    identical(there.total(0.0), here.total(0.0))


@pytest.mark.parametrize("share", [(0.0, 1.0), (0.25, 0.5)])
def test_a_pass_gives_what_one_on_a_processor_gives(card, rows, share, monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    here, there = (TorchSearch(rows[:40], device=device) for device in ("cpu", "cuda"))
    source, other = ArraySource(rows), ArraySource(rows)
    for _ in range(2):
        identical(other.accumulate(there, share), source.accumulate(here, share))
    found, expected = other.farthest(there, share), source.farthest(here, share)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.distances, expected.distances)
