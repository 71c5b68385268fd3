"""Sizes of blocks, threads, precisions that a user allows, and other rows beside change no bit of a label."""

import numpy as np
import pytest
import torch
from brute_force import squared_distances
from exact_labels import check_labels, near_bisectors
from torch.overrides import TorchFunctionMode

from vissl_clusterfit.search import tile
from vissl_clusterfit.search.torch_search import TorchSearch


@pytest.fixture(scope="module")
def awkward():
    """Rows and centroids where much has to be decided: near bisectors, duplicates, zeros, and one very long row."""
    rows, centroids = near_bisectors(700, 1e-6, dim=37, num_clusters=77)
    centroids = np.concatenate([centroids, centroids[::3], np.zeros((5, 37), dtype=np.float32)])
    rows = np.concatenate([rows, centroids, np.full((1, 37), 1e17, dtype=np.float32)])
    return rows, centroids


@pytest.fixture(scope="module")
def expected(awkward):
    search = TorchSearch(awkward[1], product_type=torch.float32)
    check_labels(search.labels(awkward[0]), *awkward, squared_distances(*awkward))
    return [search.labels(awkward[0]), *search.nearest(awkward[0], 5)]


def found(awkward, dtype):
    search = TorchSearch(awkward[1], product_type=dtype)
    return [search.labels(awkward[0]), *search.nearest(awkward[0], 5)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_BLOCK_ROWS", {"cpu": (1, 1)}),
        ("_BLOCK_ROWS", {"cpu": (7, 7)}),
        ("_BLOCK_ROWS", {"cpu": (1 << 12, 1 << 12)}),
        ("_BLOCK_SCORES", {"cpu": 1}),
        ("_BLOCK_SCORES", {"cpu": 1 << 14}),
        ("MOST_CENTROIDS", 1),
        ("MOST_CENTROIDS", 3),
        ("MOST_CENTROIDS", 40),
        ("_GROUP", 1),
        ("_GROUP", 5),
        ("_GROUP", 256),
        ("_WIDTH_MULTIPLE", 1),
        ("_WIDTH_MULTIPLE", 64),
        ("_PAIR_VALUES", {"cpu": 1}),
        ("_PAIR_VALUES", {"cpu": 500}),
        ("_MANY_CANDIDATES", 0),
        ("_MANY_CANDIDATES", 10**9),
    ],
)
def test_no_size_of_a_block_changes_a_bit(awkward, expected, product_type, name, value, monkeypatch):
    monkeypatch.setattr(tile, name, value)
    assert_same(found(awkward, product_type), expected)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_the_number_of_threads_changes_no_bit(awkward, expected, product_type, num_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert_same(found(awkward, product_type), expected)
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)


def test_rows_are_labelled_alike_alone_and_together(awkward, expected, product_type):
    rows, centroids = awkward
    search = TorchSearch(centroids, product_type=product_type)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(search.labels(rows[order]), expected[0][order])
    assert [int(search.labels(row[None])[0]) for row in rows[::20]] == expected[0][::20].tolist()


class ReducedPrecision(TorchFunctionMode):
    """Units that compute products of float32 in bfloat16 where the settings allow it, as Intel's AMX does.

    What the settings are is asked of PyTorch at each product: so this stands in for the processor, not for the code.
    """

    num_reduced = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        allowed = torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")
        if name in ("matmul", "__matmul__", "mm") and args[0].dtype == torch.float32 and allowed:
            self.num_reduced += 1
            args = [operand.bfloat16().float() for operand in args]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def medium_precision():
    """What users set so that training is faster."""
    before, tf32 = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("medium_precision")
def test_a_user_who_allows_less_precision_changes_no_bit(awkward, expected, product_type):
    with ReducedPrecision() as units:
        torch.ones(2, 2) @ torch.ones(2, 2)
        assert units.num_reduced == 1
        assert_same(found(awkward, product_type), expected)
    assert torch.get_float32_matmul_precision() == "medium"


def test_tf32_of_a_user_changes_no_bit(awkward, expected, product_type):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert_same(found(awkward, product_type), expected)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_labels(awkward, expected, product_type):
    search = TorchSearch(awkward[1], device="cuda", product_type=product_type)
    labels, distances = search.nearest(awkward[0], 5)
    np.testing.assert_array_equal(search.labels(awkward[0]), expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    np.testing.assert_allclose(distances, expected[2], rtol=1e-6)
