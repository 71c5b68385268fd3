"""What the searches of all backends have in common."""

import numpy as np
import pytest
import torch
from brute_force import squared_distances

from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.search.backends import require_backend, search_factory
from vissl_clusterfit.search.faiss_search import FaissSearch
from vissl_clusterfit.search.torch_search import TorchSearch


@pytest.fixture(params=["faiss", "torch"])
def make_search(request):
    return search_factory(request.param, "cpu")


@pytest.mark.parametrize(("name", "search"), [("faiss", FaissSearch), ("torch", TorchSearch)])
def test_a_backend_is_known_by_its_name(name, search, blobs):
    made = search_factory(name, "cpu")(blobs[:3])
    assert type(made) is search
    assert made.num_clusters == 3


def test_labels_and_distances_equal_brute_force(make_search, blobs):
    search = make_search(blobs[::25])
    labels, distances = search.nearest(blobs)
    expected = squared_distances(blobs, blobs[::25])
    np.testing.assert_array_equal(labels[:, 0], expected.argmin(axis=1))
    np.testing.assert_array_equal(search.labels(blobs), expected.argmin(axis=1))
    np.testing.assert_allclose(distances[:, 0], expected.min(axis=1), rtol=1e-5)
    assert (labels.dtype, distances.dtype, search.labels(blobs).dtype) == (np.int64, np.float32, np.int64)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_the_several_nearest_equal_brute_force(make_search, blobs, count):
    labels, distances = make_search(blobs[::25]).nearest(blobs, count)
    expected = squared_distances(blobs, blobs[::25])
    order = expected.argsort(axis=1, kind="stable")[:, :count]
    assert labels.shape == distances.shape == (1000, count)
    np.testing.assert_array_equal(labels, order)
    np.testing.assert_allclose(distances, np.take_along_axis(expected, order, axis=1), rtol=1e-5)


def test_the_second_of_two_equal_centroids_is_as_near(make_search, blobs):
    labels, distances = make_search(np.concatenate([blobs[:5], blobs[:5]])).nearest(blobs, 2)
    np.testing.assert_array_equal(distances[:, 0], distances[:, 1])
    assert (np.abs(labels[:, 0] - labels[:, 1]) == 5).all()


def test_of_one_centroid_all_are_nearest(make_search, blobs):
    search = make_search(blobs[:1])
    labels, distances = search.nearest(blobs)
    assert not labels.any()
    assert not search.labels(blobs).any()
    np.testing.assert_allclose(distances, squared_distances(blobs, blobs[:1]), rtol=1e-5)


def test_a_vector_on_its_centroid_has_distance_zero(make_search, blobs):
    far_from_zero = blobs + 1000
    labels, distances = make_search(far_from_zero[:30]).nearest(far_from_zero[:30])
    assert labels[:, 0].tolist() == list(range(30))
    assert distances[:, 0].tolist() == [0] * 30


@pytest.mark.parametrize("count", [1, 3])
def test_no_rows_give_no_labels(make_search, blobs, count):
    search = make_search(blobs[:3])
    labels, distances = search.nearest(blobs[:0], count)
    assert labels.shape == distances.shape == (0, count)
    assert search.labels(blobs[:0]).shape == (0,)
    assert (labels.dtype, distances.dtype, search.labels(blobs[:0]).dtype) == (np.int64, np.float32, np.int64)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2])
def test_distances_that_overflow_are_an_error(make_search, blobs, count):
    with pytest.raises(DataError, match=r"too large.*FEATURES\.NORMALIZE=true"):
        make_search(blobs[:3]).nearest(blobs * 1e25, count)


def test_rows_that_are_no_block_of_memory(make_search, blobs):
    wide = np.repeat(blobs, 2, axis=1)
    np.testing.assert_array_equal(
        make_search(blobs[::25]).labels(wide[:, ::2]), make_search(wide[::25, ::2]).labels(blobs)
    )


def test_neither_rows_nor_centroids_are_changed(make_search, blobs):
    rows, centroids = blobs.copy(), blobs[::25] * 1e3
    search = make_search(centroids)
    search.labels(rows)
    search.nearest(rows, 3)
    np.testing.assert_array_equal(rows, blobs)
    np.testing.assert_array_equal(centroids, blobs[::25] * 1e3)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_a_gpu_where_there_is_none_is_refused(backend, device):
    for require in (require_backend, search_factory):
        with pytest.raises(ConfigError, match=r"config\.MACHINE\.DEVICE: found gpu, but .*; allowed: cpu"):
            require(backend, device)
