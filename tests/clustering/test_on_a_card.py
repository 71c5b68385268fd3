"""A pass over features on a card: the sums, labels and farthest vectors of a processor, to the bit, and few waits."""

import contextlib
import functools
import gc
import weakref

import numpy as np
import pytest
import torch
from pretend_card import PretendedCard, pretended_card
from tiny_store import save_store

from vissl_clusterfit.clustering import card_rows, sources
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.protocol import ChunkTask
from vissl_clusterfit.clustering.reproducible_sums import Accumulator, ValueRange
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.errors import DataError
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


@pytest.fixture
def short_chunks(monkeypatch):
    """Several chunks of a card, each of several pieces."""
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    monkeypatch.setattr(card_rows, "_CHUNK_VALUES", 700 * 16)


class Counted(ArraySource):
    """Counts the vectors that are read, of which dtype."""

    def __init__(self, rows, **options):
        super().__init__(rows, **options)
        self.read = []

    def _read(self, positions, dtype=np.float32):
        rows = super()._read(positions, dtype)
        self.read.append((len(rows), rows.dtype.name))
        return rows

    def count(self):
        """How many, since it was last asked; and their dtype."""
        read, self.read = self.read, []
        return sum(number for number, _ in read), {name for _, name in read}


@pytest.mark.usefixtures("short_chunks", "card")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("share", [(0.0, 1.0), (0.25, 0.5)])
def test_vectors_that_fit_are_read_once_for_sums_and_stay(rows, dtype, share, caplog):
    rows = (rows * 100).astype(dtype)
    source, expected = Counted(rows), ArraySource(rows)
    centroids = rows[:40].astype(np.float32)
    here, there = (TorchSearch(centroids, device=device) for device in ("cpu", "cuda"))
    number = len(np.concatenate(list(source.positions(share))))
    assert source.extent == expected.extent
    assert source.count() == (3000, {"float32"})
    caplog.set_level("INFO")
    identical(source.accumulate(there, share), expected.accumulate(here, share))
    assert source.count() == (number, {dtype})
    assert "they stay there for all passes" in caplog.text
    identical(source.accumulate(there, share), expected.accumulate(here, share))
    np.testing.assert_array_equal(source.farthest(there, share).positions, expected.farthest(here, share).positions)
    assert source.count() == (0, set())
    if share != (0.0, 1.0):
        identical(source.accumulate(there), expected.accumulate(here))  # the others come, too


@pytest.mark.usefixtures("short_chunks", "card")
@pytest.mark.parametrize("unit", [False, True])
def test_vectors_that_do_not_fit_are_copied_in_each_pass(rows, unit, monkeypatch, caplog):
    caplog.set_level("INFO")
    free = 3000 * 16 * 4 + card_rows.working_bytes(40, 16, 4, torch.get_num_threads()) - 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free))
    steps = Preprocessing(normalize=unit)
    source = Counted(rows, preprocessing=steps, clusters_at_once=40)
    expected = ArraySource(rows, preprocessing=steps)
    here, there = (TorchSearch(source.take(np.arange(40)), device=device) for device in ("cpu", "cuda"))
    for _ in range(3):
        assert source.extent == expected.extent
        source.count()
        identical(source.accumulate(there), expected.accumulate(here))
        assert source.count() == (3000, {"float32"})
    assert "they are copied to it in each pass" in caplog.text


@pytest.mark.usefixtures("short_chunks", "card")
def test_each_process_keeps_its_own_part(rows, monkeypatch):
    monkeypatch.setattr(sources.distributed, "errors_shared", contextlib.nullcontext)
    there = TorchSearch(rows[:40], device="cuda")
    for part in ((0, 3), (2, 3)):
        source, expected = (ArraySource(rows, part) for _ in range(2))
        labels = [np.empty(3000, dtype=np.int64) for _ in range(2)]
        for _ in range(2):
            for own, device, found in zip((source, expected), (CARD, None), labels, strict=True):
                own.over_chunks(ChunkTask(functools.partial(_note, found), there.labels, card=device))
            np.testing.assert_array_equal(*(found[np.concatenate(list(source.positions()))] for found in labels))


def _note(labels, positions, _, found):
    labels[positions] = found


@pytest.mark.usefixtures("card")
def test_float16_that_is_no_number_is_seen_on_the_card(rows):
    """Where it is not looked at before: an import, or an extraction that did not."""
    rows = rows.astype(np.float16)
    rows[7, 3] = np.inf
    source = ArraySource(rows)
    with pytest.raises(DataError, match="of 1 of 3000 samples are NaN or infinite, the first is sample 7"):
        source.over_chunks(ChunkTask(lambda *_: None, card=CARD))


@pytest.mark.usefixtures("short_chunks", "card")
def test_float16_features_of_a_store_travel_as_they_are(tmp_path, rows):
    store = save_store(tmp_path / "features", rows, [5, 700], dtype="float16")
    assert store.dtype == "float16"
    source, expected = StoreSource(store), ArraySource(np.delete(rows.astype(np.float16), [5, 700], axis=0))
    here, there = (TorchSearch(rows[:40], device=device) for device in ("cpu", "cuda"))
    for _ in range(2):
        identical(source.accumulate(there), expected.accumulate(here))
    assert source._rows_on(CARD)._kept.dtype == torch.float16


@pytest.mark.usefixtures("card")
def test_the_memory_of_a_card_is_free_again_when_a_source_is_no_longer_used(rows):
    source = ArraySource(rows)
    source.accumulate(TorchSearch(rows[:40], device="cuda"))
    kept = weakref.ref(source._rows_on(CARD))
    gc.disable()
    try:
        del source
        assert kept() is None
    finally:
        gc.enable()
