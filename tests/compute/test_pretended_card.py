"""The paths that a card takes, on tensors that say they are on one: the results of a processor, and few waits."""

import numpy as np
import pytest
import torch
from pretend_card import OnCard, pretended_card
from stage_work import Numbers, convolutions

from vissl_clusterfit import KMeans
from vissl_clusterfit.compute.choose import FEW_IMAGES, MOST_IMAGES
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.config.compute import ComputeSettings
from vissl_clusterfit.config.features import AUTO_BATCH, EncodingSettings
from vissl_clusterfit.features import batch_size, computing
from vissl_clusterfit.features.card import Card
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.readers import measured_readers
from vissl_clusterfit.images.pixels import Finish
from vissl_clusterfit.search import tile
from vissl_clusterfit.search.torch_search import TorchSearch
from vissl_clusterfit.transfer.knn import KnnSettings, knn_hits, knn_predict
from vissl_clusterfit.transfer.retrieval import category_retrieval


@pytest.fixture
def card(monkeypatch):
    with pretended_card(monkeypatch) as card:
        yield card


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)


def test_mistakes_are_seen(card):
    """What the tests below would notice."""
    on_card, elsewhere = torch.ones(3, device="cuda"), torch.ones(3)
    assert (type(on_card), on_card.device.type, elsewhere.device.type) == (OnCard, "cuda", "cpu")
    with pytest.raises(RuntimeError, match="two devices"):
        on_card + elsewhere
    assert not card.waits
    float(on_card[0])
    on_card.cpu()
    assert card.waits.total() == 2
    on_card.to("cpu", non_blocking=True)
    assert card.waits.total() == 2


@pytest.mark.parametrize("product_type", [torch.float32, torch.bfloat16])
def test_labels_and_nearest_centroids_are_those_of_a_processor(card, rows, product_type):
    here = TorchSearch(rows[:40], product_type=product_type)
    there = TorchSearch(rows[:40], device="cuda", product_type=product_type)
    np.testing.assert_array_equal(there.labels(rows), here.labels(rows))
    for found, expected in zip(there.nearest(rows, 5), here.nearest(rows, 5), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_block_is_waited_for_a_few_times_however_many_its_candidates_are(card, rows, monkeypatch):
    waits = []
    for values in (1 << 20, 64):  # all pairs at once, and a few at a time
        monkeypatch.setitem(tile._PAIR_VALUES, "cuda", values)
        search = TorchSearch(rows[:40], device="cuda", product_type=torch.bfloat16)
        card.waits.clear()
        search.labels(rows)
        waits.append(card.waits.total())
    assert waits[0] == waits[1] <= 12


def test_centers_are_those_of_a_processor(card, rows):
    here, there = (KMeans(12, max_iter=5, random_state=0, device=device).fit(rows) for device in ("cpu", "cuda"))
    assert there.cluster_centers_.tobytes() == here.cluster_centers_.tobytes()
    np.testing.assert_array_equal(there.labels_, here.labels_)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_votes_of_neighbours_are_those_of_a_processor(card, rows, similarity):
    labels, settings = np.arange(500) % 7, KnnSettings(5, similarity=similarity, topk=(1, 3))
    here, there = (knn_predict(rows[500:], rows[:500], labels, settings, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(there, here)
    hits = [
        knn_hits(rows[500:], labels[:100], rows[:500], labels, settings, device=device) for device in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(*hits)


def test_retrieval_is_that_of_a_processor(card, rows):
    labels = np.arange(600) % 9
    found = [category_retrieval(rows[:50], labels[:50], rows, labels, device=device) for device in ("cpu", "cuda")]
    assert repr(found[0]) == repr(found[1])


def test_features_on_disk_are_those_of_a_processor(card, tmp_path):
    settings = EncodingSettings(batch_size=3, shard_size=6)
    stores = []
    for device in ("cpu", "cuda"):
        network = convolutions(PLAIN, device)
        stores.append(
            extract_features(
                Numbers(21),
                lambda network=network: network,
                tmp_path / device,
                {"dataset": {"fingerprint": "f"}},
                settings,
                device=device,
            )
        )
    np.testing.assert_array_equal(*(store.read(0, 21) for store in stores))


def test_nothing_is_waited_for_until_features_are_asked_for(card):
    network = convolutions(PLAIN, "cuda")
    finish = Finish([0.5], [0.25])
    pixels = torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8)
    with torch.inference_mode():
        arrived = Card(finish).features(network, pixels)
    assert not card.waits
    assert arrived().shape == (4, 16)


@pytest.mark.parametrize(("most", "found"), [(1 << 20, 1024), (300, 256), (64, 64), (20, 16), (1, 1)])
def test_a_batch_is_as_large_as_is_faster_and_fits(card, monkeypatch, most, found):
    """Of a network that takes as long for any batch, on a card with memory for so many images."""

    def seconds(encode, some, size):
        if size > most:
            raise torch.OutOfMemoryError("no memory")
        return 1.0

    monkeypatch.setattr(batch_size, "_seconds", seconds)
    assert batch_size.batch_size_on("cuda", convolutions(PLAIN, "cuda"), Numbers(9)) == found
    assert batch_size.batch_size_on("cpu", convolutions(PLAIN), Numbers(9)) == 64


def test_a_batch_that_is_no_faster_is_not_taken(card, monkeypatch):
    monkeypatch.setattr(batch_size, "_seconds", lambda encode, some, size: 0.01 * size)
    assert batch_size.batch_size_on("cuda", convolutions(PLAIN, "cuda"), Numbers(2)) == 64


@pytest.mark.parametrize(("fits", "expected"), [(4096, MOST_IMAGES), (100, 64), (FEW_IMAGES, FEW_IMAGES)])
def test_what_auto_is_is_measured_on_a_batch_that_keeps_a_card_busy_and_fits(card, monkeypatch, fits, expected):
    """Fewer images take as long in any precision, so that float32 would be chosen."""

    def choose(settings, device, prepare, number):
        features = prepare(PLAIN)()
        assert (len(features), features.device.type) == (number, "cuda")
        return Compute("bfloat16") if number == expected else PLAIN

    def encode(images):
        assert images.device.type == "cuda"
        if len(images) > fits:
            raise torch.OutOfMemoryError("no memory")
        return images.flatten(1)

    monkeypatch.setattr(computing, "choose", choose)
    found, _ = computing.measured_compute(ComputeSettings(), Numbers(9), lambda way: encode, torch.device("cuda"))
    assert found == Compute("bfloat16")


def test_how_many_read_is_measured_without_copies_to_the_card(card):
    devices = []

    def encode(images):
        devices.append(images.device.type)
        return images.flatten(1)

    measured_readers(Numbers(9), encode, 8, "cuda", cores=4)
    assert set(devices) == {"cuda"}


def test_auto_is_said_in_place_of_the_size_and_its_features_are_the_same(card, tmp_path):
    stores = {}
    for size in (AUTO_BATCH, 3):
        network = convolutions(PLAIN, "cuda")
        settings = EncodingSettings(batch_size=size, shard_size=6)
        inputs = {"dataset": {"fingerprint": "f"}}
        stores[size] = extract_features(
            Numbers(21), lambda network=network: network, tmp_path / str(size), inputs, settings, device="cuda"
        )
    np.testing.assert_allclose(*(store.read(0, 21) for store in stores.values()), rtol=1e-5, atol=1e-5)
